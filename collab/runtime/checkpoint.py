# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not used.

Orbax writes them in the background and renames them into place, so that a
killed writer leaves the earlier ones. It does not notice damaged array data:
checksums of the leaves are kept beside the arrays and compared after reading.
"""

from collections.abc import Callable
import contextlib
import os
import pathlib
import re
import shutil
import time
from typing import NamedTuple

from absl import logging
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from collab.runtime import checkpoint_io, tree_table
from collab.runtime import workdir as workdirs


class Checkpoints:
  """The checkpoints of one run, in workdir/checkpoints/<step>.

  A damaged one is reported in a line and the one before it used; it stays on
  disk, and the next `save` moves it to workdir/damaged. All processes of a run
  make the same calls.

  Args:
    workdir: of the run.
    keep: how many of the newest scheduled ones stay, and the newest of all.
    best: metric whose best checkpoint stays too ('-name': the lower the
      better), '' for none.
    scheduled: step -> whether an undisturbed run saves it. What a preempted run
      saves besides is there to go on from; it takes nobody's place.
    read_only: for who only reads: no folder is made.

  Raises:
    ValueError: keep < 1.
    OSError: the folder cannot be made or read.
  """

  def __init__(
    self,
    workdir,
    keep,
    best='',
    scheduled=lambda step: True,
    read_only=False,
  ):
    if keep < 1:
      raise ValueError(f'keep={keep}; expected at least 1.')
    checkpoint_io.quiet()
    self._path = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._begun = pathlib.Path(workdir).absolute() / workdirs.BEGUN
    self._keep, self._scheduled = keep, scheduled
    self._damaged, self._folder, self._saved = set(), None, None
    self._best = best
    rank = self._quality if best else None
    kept = [policies.LatestN(1), _LatestScheduled(keep, scheduled)]
    if best:
      kept.append(
        policies.BestN(
          get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False
        )
      )
    options = ocp.CheckpointManagerOptions(
      best_fn=rank,
      preservation_policy=policies.AnyPreservationPolicy(kept),
      create=False,
    )
    with self._writing():
      if not read_only:
        self._path.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(
        self._path, options=options, item_handlers=checkpoint_io.handlers()
      )
    # While it is open no other folder can be taken for this one.
    if not read_only:
      self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)

  def save(self, step, state, metrics=None):
    """Copies the state and returns; the copy is written in the background.

    The buffers of `state` may be donated as soon as this returns.

    Args:
      step: of the run, beyond that of the newest checkpoint.
      state: dict of pytrees of jax.Array, one of them 'params'.
      metrics: dict name -> float, for `best`.

    Raises:
      ValueError: there is a checkpoint of this step or a later one.
      FloatingPointError: the state has a NaN or an infinity.
      OSError: this or the previous one cannot be written; the earlier are kept.
    """
    if self._gone():  # Orbax would make it anew, and a run with half of it
      raise OSError(f'{self._path} is gone: step {step} is not saved.')
    if self._damaged:
      self._set_aside()
    latest = self._manager.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f'save of step {step}: {self._path} has one of step {latest}; restore '
        'that first, or use another workdir.'
      )
    if bad := tree_table.not_finite(state):
      words = f'Step {step} is not saved, for these are not finite:'
      raise FloatingPointError(
        f'{words} {tree_table.some(bad)}; see {self._path}.'
      )
    self._saved = step
    with self._writing():
      checkpoint_io.save(self._manager, step, state, metrics or {})

  def restore(self, abstract_state):
    """The newest good state.

    Args:
      abstract_state: pytree of ShapeDtypeStruct with shardings, on any mesh.

    Returns:
      (step, state), or None if there is no checkpoint at all.

    Raises:
      ValueError: leaves differ in name, type or shape from the newest good
        checkpoint's; or all are damaged.
    """
    for step, state in self._good(abstract_state):
      return step, state
    if self._damaged:
      raise ValueError(
        f'All checkpoints in {self._path} are damaged: {sorted(self._damaged)}.'
      )
    return None

  def check_best(self, scores):
    """Refuses scores that no best checkpoint can be found by.

    Args:
      scores: of an evaluation, as `save` gets them.

    Raises:
      ValueError: the metric is not among them.
      FloatingPointError: it is NaN.
    """
    name = self._best.removeprefix('-')
    if name and name not in scores:
      raise ValueError(
        f'checkpoint.best={self._best!r} is no metric of the validation; there '
        f'are {", ".join(scores)}: go on with --config.checkpoint.best=NAME.'
      )
    if name and np.isnan(scores[name]):
      raise FloatingPointError(
        f'{name} of the validation is nan; the checkpoints in {self._path} are '
        'from before it.'
      )

  def best(self, abstract_params, name='params'):
    """(step, parameters) of the checkpoint with the best metric.

    Args:
      abstract_params, name: as in `average`.

    Raises:
      ValueError: it is damaged, or none has the metric; or as `restore`.
    """
    self._wait()
    step = self._manager.best_step()
    metrics = {} if step is None else self._manager.metrics(step) or {}
    if self._quality(metrics) == -np.inf:
      raise ValueError(
        f'best={self._best!r}: no checkpoint in {self._path} has this metric, '
        'as a finite number.'
      )
    for _, state in self._good({name: abstract_params}, [step]):
      return step, state[name]
    raise ValueError(f'The best checkpoint {self._path}/{step} is damaged.')

  def average(self, n, abstract_params, name='params'):
    """Mean of the parameters in the n newest good scheduled checkpoints.

    Args:
      n: 1 just reads the newest parameters.
      abstract_params: as in `restore`, of state[name].
      name: 'params', or 'ema' for their moving average.

    Raises:
      ValueError: n > keep, or fewer good ones; or as `restore`.
    """
    if not 1 <= n <= self._keep:
      raise ValueError(f'average of {n}; expected 1 to keep={self._keep}.')
    total, count = None, 0
    self._wait()
    steps = [x for x in self._manager.all_steps() if self._scheduled(x)]
    for _, state in self._good({name: abstract_params}, steps):
      new = jax.tree.map(lambda x: x.astype(jnp.float32), state[name])
      total = new if count == 0 else jax.tree.map(jnp.add, total, new)
      count += 1
      if count == n:
        return jax.tree.map(
          lambda x, a: (x / n).astype(a.dtype), total, abstract_params
        )
    raise ValueError(f'average of {n}; {self._path} has {count} good ones.')

  def newest(self):
    """The step of the newest checkpoint, None if there is none."""
    self._wait()
    return self._manager.latest_step()

  def abstract(self, name='params'):
    """state[name] of the newest good checkpoint, as ShapeDtypeStructs.

    Raises:
      ValueError: there is none.
    """
    self._wait()
    for step in sorted(self._manager.all_steps(), reverse=True):
      with contextlib.suppress(Exception):  # as in `_good`: damaged
        return checkpoint_io.abstract(self._manager, step)[name]
    raise ValueError(f'{self._path} has no checkpoint.')

  def close(self):
    """Waits for the writer; an OSError if it has failed."""
    try:
      self._wait()
    finally:
      self._manager.close()
      if self._folder is not None:
        if self._gone():
          self._remove_rest()
        os.close(self._folder)
        self._folder = None

  def _gone(self):
    """Whether the folder was deleted since, though there may be another."""
    try:
      now = self._path.stat()
    except FileNotFoundError:
      return True
    return not os.path.samestat(os.fstat(self._folder), now)

  def _remove_rest(self):
    """Removes what the writer has made of a folder that was deleted."""
    quiet = 0
    for _ in range(100):
      name = str(self._saved)
      for path in [self._path / name, *self._path.glob(f'{name}.*')]:
        shutil.rmtree(path, ignore_errors=True)
      for folder in (self._path, self._path.parent):
        with contextlib.suppress(OSError):  # it is not empty, or not there
          folder.rmdir()
      quiet = 0 if self._path.exists() else quiet + 1
      if quiet == 10:
        return
      time.sleep(0.1)  # writes that Orbax has given up end a little later

  def _wait(self):
    with self._writing():
      self._manager.wait_until_finished()
    if jax.process_index() == 0 and self._manager.latest_step() is not None:
      self._begun.unlink(missing_ok=True)

  def _quality(self, metrics):
    value = metrics.get(self._best.removeprefix('-'), np.nan)
    if not np.isfinite(value):
      return -np.inf
    return -value if self._best.startswith('-') else value

  def _good(self, abstract, steps=None):
    """Yields (step, tree) of the good ones of `steps`, newest first."""
    self._wait()  # what is being written would seem damaged
    steps = self._manager.all_steps() if steps is None else steps
    steps = set(steps) - self._damaged
    for step in sorted(steps, reverse=True):
      tree, fault = None, ''
      try:
        tree = checkpoint_io.restore(self._manager, step, abstract)
      except checkpoint_io.OtherModel:
        raise
      except Exception as e:  # Orbax raises all kinds, Exception included.
        fault = _line(e)
      # What one host cannot read, none uses.
      if multihost_utils.process_allgather(np.array(bool(fault))).any():
        told = 'Checkpoint %s/%d is damaged and not used: %s'
        logging.warning(told, self._path, step, fault or 'on another host')
        self._damaged.add(step)
      else:
        yield step, tree

  def _set_aside(self):
    """Moves the damaged away: Orbax does not save below the newest step."""
    if jax.process_index() == 0:
      folder = self._path.parent / 'damaged'
      folder.mkdir(exist_ok=True)
      for step in self._damaged:
        times = len(list(folder.glob(f'{step}.*')))
        (self._path / str(step)).rename(folder / f'{step}.{times}')
    multihost_utils.sync_global_devices('damaged checkpoints set aside')
    self._damaged.clear()
    self._manager.reload()

  @contextlib.contextmanager
  def _writing(self):
    """Whatever fails in writing is an OSError of one line."""
    try:
      yield
    except Exception as e:
      why = _line(e)
      if self._folder is not None and self._gone():
        why = 'it was deleted during the run'
      raise OSError(f'No checkpoint written in {self._path}: {why}') from e


def check(config):
  """Refuses what a run could only find out at its end, with a ValueError."""
  c, every = config.checkpoint, config.every
  if config.total_steps < 1:
    raise ValueError(f'total_steps={config.total_steps}; expected at least 1.')
  if min(every.values()) < 1:
    raise ValueError(f'every must be steps, at least 1; got {every.to_dict()}.')
  if c.final not in ('last', 'best'):
    raise ValueError(f'checkpoint.final={c.final!r}; there are last, best.')
  written = -(-config.total_steps // every.checkpoint)
  if not 1 <= c.average <= min(written, c.keep):
    raise ValueError(
      f'checkpoint.average={c.average}, but checkpoint.keep={c.keep} of the '
      f'{written} that total_steps={config.total_steps} makes.'
    )
  if c.final == 'best' and (not c.best or every.eval % every.checkpoint):
    raise ValueError(
      "checkpoint.final='best' needs checkpoint.best, a metric, and an "
      f'every.eval that is a multiple of every.checkpoint; got {c.best!r}, '
      f'{every.eval} and {every.checkpoint}.'
    )


def final_params(config, checkpoints, abstract_params):
  """The parameters that a run is judged by at its end.

  With config.checkpoint.final='best' those of the best checkpoint, with 'last'
  the mean of the newest config.checkpoint.average; before the first step those
  that there are. Of the moving average of the parameters if the optimiser keeps
  one.

  Raises:
    ValueError: as `Checkpoints.best` and `Checkpoints.average`.
  """
  name = 'ema' if config.optim.ema else 'params'
  if checkpoints.newest() == 0:  # converted, not trained: nothing to choose
    return checkpoints.average(1, abstract_params, name)
  if config.checkpoint.final == 'best':
    return checkpoints.best(abstract_params, name)[1]
  return checkpoints.average(config.checkpoint.average, abstract_params, name)


def _line(e):
  """The exception as one line, of TensorStore's the beginning and the cause."""
  text = ' '.join(f'{type(e).__name__}: {e}'.split())
  text = re.sub(r' \[(source|tensorstore_spec).*', '', text)
  return text if len(text) < 200 else f'{text[:100]} ... {text[-100:]}'


class _LatestScheduled(NamedTuple):
  """Orbax' policy for the newest `keep` checkpoints of an undisturbed run."""

  keep: int
  scheduled: Callable

  def should_preserve(self, checkpoints, *, context):
    steps = [c.step for c in checkpoints if self.scheduled(c.step)]
    newest = set(steps[-self.keep :])
    return [c.step in newest for c in checkpoints]
