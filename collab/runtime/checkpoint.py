# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run, verified when they are read.

Orbax writes them in the background and renames them into place, so that a
killed writer leaves the earlier ones. It does not notice damaged array data, so
checkpoint_io keeps checksums of the leaves beside the arrays and compares them
after reading.

It is longer than 300 lines, because it is one class, whose methods all skip the
damaged ones.
"""

from collections.abc import Callable
import contextlib
import pathlib
import re
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from collab import checks
from collab.io import buckets, json_text
from collab.runtime import (
  checkpoint_io,
  held_folder,
  preservation,
  processes,
  tree_table,
)
from collab.runtime import workdir as workdirs

READ = 3600  # seconds that hosts may differ by in reading a checkpoint


class Checkpoints:
  """The checkpoints of one run, in workdir/checkpoints/<step>.

  A damaged one is reported in a line and the one before it used; it stays on
  disk, and the next `save` moves it to workdir/damaged. All processes of a run
  make the same calls.

  Args:
    workdir: of the run.
    keep: this many of the newest scheduled checkpoints stay; the newest of all
      stays in any case.
    best: metric whose best checkpoint stays too ('-name': the lower the
      better), '' for none.
    scheduled: step -> whether an undisturbed run saves it. A preempted run also
      saves at other steps, only to resume from; those do not count towards
      `keep`.
    read_only: no folder is made, and `save` is refused.

  Raises:
    ValueError: keep < 1, or the metrics of a checkpoint are damaged.
    OSError: the folder cannot be made or read.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    keep: int,
    best: str = '',
    scheduled: Callable[[int], bool] = lambda step: True,
    read_only: bool = False,
  ):
    checks.at_least('keep', keep, 1)
    checkpoint_io.silence_orbax()
    self._path = buckets.absolute(workdir) / 'checkpoints'
    self._keep, self._best, self._scheduled = keep, best, scheduled
    self._damaged, self._folder, self._last_attempt = set(), None, None
    self._read_only = read_only
    rank = self._quality if best else None
    if best:
      self._read_metrics()
    options = ocp.CheckpointManagerOptions(
      best_fn=rank,
      preservation_policy=preservation.policy(keep, scheduled, rank),
      create=False,
    )
    with self._as_os_error():
      if not read_only and not buckets.is_url(self._path):
        self._folder = held_folder.HeldFolder(self._path)
      self._manager = ocp.CheckpointManager(
        self._path, options=options, item_handlers=checkpoint_io.handlers()
      )

  def save(self, step: int, state: Any, metrics: dict | None = None) -> None:
    """Copies the state and returns; the copy is written in the background.

    The buffers of `state` may be donated as soon as this returns.

    Args:
      step: of the run, beyond that of the newest checkpoint.
      state: dict of pytrees of jax.Array, one of them 'params'.
      metrics: dict name -> float, of an evaluation, for `best`.

    Raises:
      ValueError: there is a checkpoint of this step or a later one; read_only.
      FloatingPointError: the state has a NaN or an infinity.
      OSError: this or the previous one cannot be written; the earlier are kept.
    """
    if self._read_only:
      raise ValueError(f'{self._path} is read_only: step {step} is not saved.')
    if self._folder and self._folder.gone():
      # Orbax would silently recreate it, without the earlier checkpoints.
      raise OSError(f'{self._path} is gone: step {step} is not saved.')
    if self._damaged:
      self._set_aside()
    latest = self._manager.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f'save of step {step}: {self._path} has one of step {latest}; restore '
        'that first, or use another workdir.'
      )
    if bad := tree_table.join_names(tree_table.not_finite(state)):
      words = f'Step {step} is not saved, for these are not finite: {bad}'
      raise FloatingPointError(f'{words}; see {self._path}.')
    self._last_attempt = step
    with self._as_os_error():
      checkpoint_io.save(self._manager, step, state, metrics or {})

  def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
    """The newest good state.

    Args:
      abstract_state: pytree of ShapeDtypeStruct with shardings, on any mesh.

    Returns:
      (step, state), or None if there is no checkpoint at all.

    Raises:
      ValueError: leaves differ in name, type or shape from the newest good
        checkpoint's; or all are damaged.
    """
    return self._newest_good(checkpoint_io.restore, abstract_state)

  def check_metrics(self, metrics: dict) -> None:
    """Raises if `best` cannot rank this evaluation: no such metric, or NaN.

    Infinity passes, as a perplexity may overflow; it is never the best.

    Args:
      metrics: as for `save`.

    Raises:
      ValueError: the metric is not among them.
      FloatingPointError: it is NaN.
    """
    name = self._best.removeprefix('-')
    if name and name not in metrics:
      raise ValueError(
        f'checkpoint.best={self._best!r} is no metric of the validation; there '
        f'are {", ".join(metrics)}: go on with --config.checkpoint.best=NAME.'
      )
    if name and np.isnan(metrics[name]):
      raise FloatingPointError(
        f'{name} of the validation is nan; the checkpoints in {self._path} are '
        'from before it.'
      )

  def best_params(
    self, abstract_params: Any, name: str = 'params'
  ) -> tuple[int, Any]:
    """(step, parameters) of the checkpoint with the best metric.

    Args:
      abstract_params: as in `restore`, of state[name].
      name: 'params', or 'ema' for their moving average.

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
    abstract = {name: abstract_params}
    for _, state in self._good([step], checkpoint_io.restore, abstract):
      return step, state[name]
    raise ValueError(f'The best checkpoint {self._path}/{step} is damaged.')

  def average(self, n: int, abstract_params: Any, name: str = 'params') -> Any:
    """Mean of the parameters in the n newest good scheduled checkpoints.

    Args:
      n: how many; 1 gives those of the newest good scheduled checkpoint.
      abstract_params: as in `restore`, of state[name].
      name: 'params', or 'ema' for their moving average.

    Raises:
      ValueError: n > keep, or fewer good ones; or as `restore`.
    """
    checks.within('average', n, 1, self._keep)
    self._wait()
    steps = [x for x in self._manager.all_steps() if self._scheduled(x)]
    found = self._good(steps, checkpoint_io.restore, {name: abstract_params})
    total, count = None, 0
    for count, (_, state) in enumerate(found, 1):
      new = jax.tree.map(lambda x: x.astype(jnp.float32), state[name])
      total = jax.tree.map(jnp.add, total, new) if count > 1 else new
      if count == n:
        return jax.tree.map(
          lambda x, a: (x / n).astype(a.dtype), total, abstract_params
        )
    raise ValueError(f'average of {n}; {self._path} has {count} good ones.')

  def newest(self) -> int | None:
    """The step of the newest checkpoint, None if there is none."""
    self._wait()
    return self._manager.latest_step()

  def abstract_params(self) -> Any:
    """The parameters of the newest good checkpoint, as ShapeDtypeStructs.

    Of a checkpoint only its table of leaves is read and checked.

    Raises:
      ValueError: there is no checkpoint, or all are damaged.
    """
    if found := self._newest_good(checkpoint_io.abstract):
      return found[1]['params']
    raise ValueError(f'{self._path} has no checkpoint.')

  def close(self) -> None:
    """Waits for the writer; an OSError if it has failed."""
    try:
      self._wait()
    finally:
      self._manager.close()
      if self._folder:
        # If it is gone, the writer may have made it again, for this step alone.
        self._folder.close(made_since=str(self._last_attempt))

  def _wait(self):
    """Waits for the writer: what it has not finished would seem damaged."""
    with self._as_os_error():
      self._manager.wait_until_finished()
    if jax.process_index() == 0 and self._manager.latest_step() is not None:
      # `workdir.begin` made this mark, to stay until there is a checkpoint.
      (self._path.parent / workdirs.BEGUN).unlink(missing_ok=True)

  def _read_metrics(self):
    """Refuses damaged metrics by the name of their file; Orbax has no names."""
    for path in sorted(self._path.glob('[0-9]*/metrics/metrics')):
      if path.parts[-3].isdigit():  # others are not finished
        metrics = json_text.read_object(path)
        value = metrics.get(self._best.removeprefix('-'), 0.0)
        if not isinstance(value, float | int):
          raise ValueError(f'{path} is damaged: it has {value!r:.60}.')

  def _quality(self, metrics):
    """The metric of `best`, the greater the better; -inf if there is none."""
    value = metrics.get(self._best.removeprefix('-'), np.nan)
    value = -value if self._best.startswith('-') else value
    return value if np.isfinite(value) else -np.inf

  def _newest_good(self, read, *abstract):
    """(step, tree) as `_good`, None if there is no checkpoint at all."""
    self._wait()
    for found in self._good(self._manager.all_steps(), read, *abstract):
      return found
    if self._damaged:
      raise ValueError(
        f'All checkpoints in {self._path} are damaged: {sorted(self._damaged)}.'
      )
    return None

  def _good(self, steps, read, *abstract):
    """Yields (step, read(manager, step, *abstract)) of good ones, newest first.

    To be called after `_wait`.
    """
    for step in sorted(set(steps) - self._damaged, reverse=True):
      tree, fault = None, ''
      try:
        tree = read(self._manager, step, *abstract)
      except checkpoint_io.OtherModel:
        raise  # All hosts see it in the same table, so none waits below.
      except Exception as e:  # Orbax raises many types, bare Exception too.
        fault = _line(e)
      # What one host cannot read, none uses.
      if any(processes.exchange(f'read of {step}', bool(fault), READ)):
        message = 'Checkpoint %s/%d is damaged and not used: %s'
        logging.warning(message, self._path, step, fault or 'on another host')
        self._damaged.add(step)
      else:
        yield step, tree

  def _set_aside(self):
    """Moves the damaged away: Orbax skips saves below the newest step."""
    if jax.process_index() == 0:
      folder = self._path.parent / 'damaged'
      folder.mkdir(exist_ok=True)
      for step in self._damaged:
        copies = len(list(folder.glob(f'{step}.*')))
        buckets.move(self._path / str(step), folder / f'{step}.{copies}')
    processes.exchange('damaged checkpoints set aside')
    self._damaged.clear()
    self._manager.reload()

  @contextlib.contextmanager
  def _as_os_error(self):
    """Raises whatever fails as an OSError of one line."""
    try:
      yield
    except Exception as e:
      why = _line(e)
      if self._folder and self._folder.gone():
        why = 'it was deleted during the run'
      done = 'read' if self._read_only else 'written'
      raise OSError(f'No checkpoint {done} in {self._path}: {why}') from e


def _line(e):
  """The exception as one line.

  Of a long one, TensorStore's, the beginning and the end, which is the cause.
  """
  text = ' '.join(f'{type(e).__name__}: {e}'.split())
  text = re.sub(r' \[(source|tensorstore_spec).*', '', text)
  return text if len(text) < 200 else f'{text[:100]} ... {text[-100:]}'
