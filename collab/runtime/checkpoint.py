# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run, verified when they are read.

Orbax writes them in the background and renames them into place, so a killed
writer leaves the earlier ones intact. Orbax does not notice damaged array data.
So checksums of the leaves are kept beside the arrays and compared after
reading.
"""

from collections.abc import Callable
import contextlib
import pathlib
import re
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from collab.runtime import checkpoint_io, held_folder, preservation, tree_table
from collab.runtime import workdir as workdirs


class Checkpoints:
  """The checkpoints of one run, in workdir/checkpoints/<step>.

  A damaged checkpoint is reported in one line, and the one before it is used.
  It stays on disk until the next `save` moves it to workdir/damaged. All
  processes of a run must make the same calls.

  Args:
    workdir: workdir of the run.
    keep: number of scheduled checkpoints that stay, the newest ones. The newest
      of all also stays.
    best: metric whose best checkpoint also stays ('-name': lower is better), ''
      for none.
    scheduled: function step -> whether an undisturbed run saves it. Other
      checkpoints are saved when a run is preempted, to resume from; they do not
      count against `keep`.
    read_only: nothing is saved, so no folder is created.

  Raises:
    ValueError: keep < 1.
    OSError: the folder cannot be created or read.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    keep: int,
    best: str = '',
    scheduled: Callable[[int], bool] = lambda step: True,
    read_only: bool = False,
  ):
    if keep < 1:
      raise ValueError(f'keep={keep}; expected at least 1.')
    checkpoint_io.quiet()
    workdir = pathlib.Path(workdir).absolute()
    self._path, self._begun = workdir / 'checkpoints', workdir / workdirs.BEGUN
    self._keep, self._best, self._scheduled = keep, best, scheduled
    self._damaged, self._folder, self._saved = set(), None, None
    rank = self._quality if best else None
    options = ocp.CheckpointManagerOptions(
      best_fn=rank,
      preservation_policy=preservation.policy(keep, scheduled, rank),
      create=False,
    )
    with self._writing():
      if not read_only:
        self._folder = held_folder.HeldFolder(self._path)
      self._manager = ocp.CheckpointManager(
        self._path, options=options, item_handlers=checkpoint_io.handlers()
      )

  def save(self, step: int, state: Any, metrics: dict | None = None):
    """Copies the state and returns; the copy is written in the background.

    The buffers of `state` may be donated as soon as this returns.

    Args:
      step: step of the run, after that of the newest checkpoint.
      state: dict of pytrees of jax.Array, one of them 'params'.
      metrics: dict name -> float, for `best`.

    Raises:
      ValueError: there is a checkpoint of this step or a later one.
      FloatingPointError: the state has a NaN or an infinity.
      OSError: this or the previous checkpoint cannot be written; earlier ones
        stay.
    """
    if self._folder.gone():  # Orbax would make a new one, of half a run
      raise OSError(f'{self._path} is gone: step {step} is not saved.')
    if self._damaged:
      self._set_aside()
    latest = self._manager.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f'save of step {step}: {self._path} has one of step {latest}; restore '
        'that first, or use another workdir.'
      )
    if bad := tree_table.some(tree_table.not_finite(state)):
      words = f'Step {step} is not saved, for these are not finite: {bad}'
      raise FloatingPointError(f'{words}; see {self._path}.')
    self._saved = step
    with self._writing():
      checkpoint_io.save(self._manager, step, state, metrics or {})

  def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
    """Restores the newest good state.

    Args:
      abstract_state: pytree of ShapeDtypeStruct with shardings, on any mesh.

    Returns:
      (step, state), or None if there is no checkpoint.

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

  def check_best(self, scores: dict):
    """Refuses scores by which no best checkpoint can be chosen.

    Args:
      scores: scores of an evaluation, as passed to `save`.

    Raises:
      ValueError: the metric is not among them.
      FloatingPointError: the metric is NaN.
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

  def best(self, abstract_params: Any, name: str = 'params'):
    """Returns (step, parameters) of the checkpoint with the best metric.

    Args:
      abstract_params, name: as in `average`.

    Raises:
      ValueError: it is damaged, or none has the metric; or as in `restore`.
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

  def average(self, n: int, abstract_params: Any, name: str = 'params'):
    """Averages the parameters of the n newest good scheduled checkpoints.

    Args:
      n: number of checkpoints; 1 just reads the newest parameters.
      abstract_params: like `restore`'s, for state[name].
      name: 'params', or 'ema' for their moving average.

    Raises:
      ValueError: n > keep, or there are fewer good ones; or as in `restore`.
    """
    if not 1 <= n <= self._keep:
      raise ValueError(f'average of {n}; expected 1 to keep={self._keep}.')
    self._wait()
    steps = [x for x in self._manager.all_steps() if self._scheduled(x)]
    found = self._good({name: abstract_params}, steps)
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
    """Returns the step of the newest checkpoint, None if there is none."""
    self._wait()
    return self._manager.latest_step()

  def abstract(self) -> Any:
    """Returns the newest good checkpoint's parameters as ShapeDtypeStructs.

    Raises:
      ValueError: there is none.
    """
    self._wait()
    for step in sorted(self._manager.all_steps(), reverse=True):
      with contextlib.suppress(Exception):  # damaged, as in `_good`
        return checkpoint_io.abstract(self._manager, step)['params']
    raise ValueError(f'{self._path} has no checkpoint.')

  def close(self):
    """Waits for the writer; raises OSError if it has failed."""
    try:
      self._wait()
    finally:
      self._manager.close()
      if self._folder:
        self._folder.close(made_since=str(self._saved))

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
    """Yields (step, tree) of the good checkpoints of `steps`, newest first."""
    self._wait()  # a checkpoint in progress would seem damaged
    steps = self._manager.all_steps() if steps is None else steps
    steps = set(steps) - self._damaged
    for step in sorted(steps, reverse=True):
      tree, fault = None, ''
      try:
        tree = checkpoint_io.restore(self._manager, step, abstract)
      except checkpoint_io.OtherModel:
        raise
      except Exception as e:  # Orbax raises any kind of exception.
        fault = _line(e)
      # A checkpoint that one host cannot read is used by none.
      if multihost_utils.process_allgather(np.array(bool(fault))).any():
        told = 'Checkpoint %s/%d is damaged and not used: %s'
        logging.warning(told, self._path, step, fault or 'on another host')
        self._damaged.add(step)
      else:
        yield step, tree

  def _set_aside(self):
    """Moves damaged checkpoints: Orbax does not save before the newest step."""
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
    """Turns any error of writing into an OSError of one line."""
    try:
      yield
    except Exception as e:
      why = _line(e)
      if self._folder and self._folder.gone():
        why = 'it was deleted during the run'
      raise OSError(f'No checkpoint written in {self._path}: {why}') from e


def _line(e):
  """Formats an exception as one line; of TensorStore's only start and cause."""
  text = ' '.join(f'{type(e).__name__}: {e}'.split())
  text = re.sub(r' \[(source|tensorstore_spec).*', '', text)
  return text if len(text) < 200 else f'{text[:100]} ... {text[-100:]}'
