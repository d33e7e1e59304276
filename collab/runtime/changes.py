# SPDX-License-Identifier: Apache-2.0
"""What may change when a run goes on, and a record of what has changed."""

from collections.abc import Callable
import importlib.metadata
import pathlib
import zlib

from absl import logging
from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from collab.io import atomic, json_text

# Changes of these leave the numbers of a run as they are.
FREE = ('every', 'checkpoint', 'wandb', 'skip_nonfinite')
# After a change of these, or of JAX, no single run gives the same numbers: the
# row of such a run enters no table. total_steps may only grow.
RECORDED = ('fsdp', 'accumulate', 'total_steps')
VERSIONS = ('jax', 'jaxlib')
WORDS = 'every.*, checkpoint.*, wandb, skip_nonfinite, fsdp, accumulate'
# Settings of JAX that results depend on; they never change within a run.
NUMERICS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
)


def numerics() -> dict:
  """The settings of JAX that results depend on."""
  return {name: getattr(jax.config, name) for name in NUMERICS}


def check(kept: dict, config: ConfigDict, workdir: str):
  """Refuses to go on with a config or settings that make another run.

  Args:
    kept: of workdir.read.
    config: ConfigDict to go on with.
    workdir: for the message.

  Raises:
    ValueError: it says what differs.
  """
  old, new = _flat(kept['config']), _flat(config.to_dict())
  if not old['total_steps']:
    raise ValueError(
      f'{workdir} was converted from a checkpoint and has no task: start a run '
      f'with --config and --config.init_from={workdir}.'
    )
  if wrong := [
    f'{key} is {old.get(key)!r}, got {new.get(key)!r}'
    for key in _differing(old, new)
    if key.split('.')[0] not in FREE + RECORDED
    or (key == 'total_steps' and new[key] < old[key])
  ]:
    raise ValueError(
      f'{workdir} goes on with other {WORDS} or more total_steps, but is of '
      f'another config: {"; ".join(wrong)}.'
    )
  now = numerics()
  if wrong := [
    f'{name} was {was}, is {now[name]}'
    for name, was in kept['numerics'].items()
    if name in now and now[name] != was
  ]:
    raise ValueError(
      f'{workdir} began with other settings of JAX, from the environment: '
      f'{"; ".join(wrong)}.'
    )


def found(
  kept: dict, config: ConfigDict, step: int, workdir: str, rates: Callable
) -> list[dict]:
  """What changes, of config and JAX, with a start that goes on from `step`.

  Args:
    kept, config, workdir: as in `check`.
    step: of the checkpoint.
    rates: total_steps -> the schedule that the config has with so many.

  Returns:
    List of dict(step, field, was, now).

  Raises:
    ValueError: with other total_steps, the learning rates so far would have
      been others.
  """
  old, new = _flat(kept['config']), _flat(config.to_dict())
  if new['total_steps'] != old['total_steps']:
    totals = old['total_steps'], new['total_steps']
    _check_rates(*map(rates, totals), totals, step, workdir)
  last = {change['field']: change['now'] for change in kept['changes']}
  for name in VERSIONS:
    field, here = f'versions.{name}', importlib.metadata.version(name)
    new[field] = here
    old[field] = last.get(field, kept['versions'].get(name, here))
    if old[field] != here:
      told = '%s goes on with %s %s, not %s: its results may differ.'
      logging.warning(told, workdir, name, here, old[field])
  return [
    dict(step=step, field=key, was=old.get(key), now=new[key])
    for key in _differing(old, new)
  ]


def _check_rates(old, new, totals, step, workdir):
  """Refuses other total_steps if the rates of the steps done depend on it."""
  was, now = (np.asarray(rate(np.arange(step))) for rate in (old, new))
  for i in np.flatnonzero(was != now)[:1]:
    raise ValueError(
      f'{workdir} has done {step} steps of {totals[0]}; with total_steps='
      f'{totals[1]} the learning rate of step {i + 1} would have been '
      f'{now[i]:.6g}, not {was[i]:.6g}: start another run.'
    )


def check_data(workdir: str, task, steps: int):
  """Refuses to go on with other data than the run began with.

  Compared are the checksum in what the task says of its data, which those of
  text have, and one of five batches from all over the run, of this process'
  share: with another number of processes the text alone.

  Args:
    workdir: keeps them in data.json.
    task: tasks.Task.
    steps: of the run when it began.

  Raises:
    ValueError: the data has changed, or the file is damaged.
  """
  if jax.process_index() != 0:  # one reads all of the data for all
    return
  path = pathlib.Path(workdir) / 'data.json'
  crc = 0
  for step in sorted({i * max(steps - 1, 0) // 4 for i in range(5)}):
    for name, x in sorted(task.batch(step).items()):
      crc = zlib.crc32(np.ascontiguousarray(x), zlib.crc32(name.encode(), crc))
  now = {k: x for k, x in task.describe().items() if k == 'checksum'}
  now[f'checksum of batches, {jax.process_count()} processes'] = f'{crc:08x}'
  if not path.exists():
    atomic.save_json(path, now)
    return
  old = json_text.read_object(path)
  if changed := [
    f'{key} was {old[key]}, is {now[key]}'
    for key in now
    if key in old and now[key] != old[key]
  ]:
    raise ValueError(
      f'{workdir}: the data is not what the run began with: '
      f'{"; ".join(changed)}.'
    )


def off_tables(changes: list[dict]) -> list[dict]:
  """The changes that keep the row of a run out of tables."""
  return [x for x in changes if x['field'].startswith((*RECORDED, 'versions.'))]


def read(path: pathlib.Path, config: dict) -> tuple[list, dict]:
  """The changes in a file, none if it is missing, and the config after them.

  Args:
    path: of changes.json.
    config: before them.

  Raises:
    ValueError: the file is damaged.
  """
  if not path.exists():
    return [], config
  changes = json_text.read_object(path).get('changes')
  flat = traverse_util.flatten_dict(config, keep_empty_nodes=True, sep='.')
  try:
    for change in changes:
      int(change['step'])
      field, now = change['field'], change['now']
      group = field.split('.')[0]
      if group == 'versions':
        continue
      if group not in FREE + RECORDED:
        raise ValueError(f'{field} never changes')
      if type(now) is not type(flat[field]):
        raise ValueError(f'{field} is {now!r}')
      flat[field] = now
  except (TypeError, LookupError, AttributeError, ValueError) as e:
    raise ValueError(f'{path} is damaged: {e}.') from e
  return changes, traverse_util.unflatten_dict(flat, sep='.')


def _differing(old, new):
  """Keys of flat configs whose values are not the same; NaN is the same."""
  return [
    key
    for key in old | new
    if json_text.to_json(old.get(key)) != json_text.to_json(new.get(key))
  ]


def _flat(config):
  return traverse_util.flatten_dict(config, sep='.')
