# SPDX-License-Identifier: Apache-2.0
"""Decides what may change when a run resumes, and records the changes."""

from collections.abc import Callable
import importlib.metadata
import pathlib
from typing import Any
import zlib

from absl import logging
from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from collab import checks
from collab.io import atomic, buckets, json_text
from collab.runtime import processes

# Changes of these do not affect the training of a run. `checkpoint` decides
# which parameters are evaluated, and is part of the config's hash.
FREE = ('every', 'checkpoint', 'wandb', 'skip_nonfinite')
# After a change of these, or of JAX, no single run reproduces the result, so
# its row enters no table. total_steps may only grow.
RECORDED = ('fsdp', 'tensor', 'rules', 'accumulate', 'total_steps')
VERSIONS = ('jax', 'jaxlib')
# An evaluation of a run as it is has these of the run.
EVALUATED = ('total_steps', 'every.checkpoint') + tuple(
  f'checkpoint.{name}' for name in ('best', 'final', 'average')
)
WORDS = 'every.*, checkpoint.*, wandb, skip_nonfinite, fsdp, tensor, rules, '
WORDS += 'accumulate'
# JAX settings that affect results; they may not change within a run.
NUMERICS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
)


def numerics() -> dict:
  """Returns the JAX settings that affect results."""
  return {name: getattr(jax.config, name) for name in NUMERICS}


def check(kept: dict, config: ConfigDict, workdir: str) -> None:
  """Refuses to resume with a config or settings that make another run.

  Args:
    kept: result of workdir.read.
    config: ConfigDict to resume with.
    workdir: path for the message.

  Raises:
    ValueError: config or settings differ; the message says where.
  """
  old, new = _flat(kept['config']), _flat(config.to_dict())
  if not (old['total_steps'] or kept['config']['data']):
    raise ValueError(
      f'{workdir} was converted from a checkpoint and has no task: start a run '
      f'with --config and --config.init_from={workdir}.'
    )
  keys = [x for x in old | new if x.split('.')[0] not in FREE + RECORDED]
  keys += ['total_steps'] * (new['total_steps'] < old['total_steps'])
  where = f'{workdir} goes on with other {WORDS} or more total_steps, but is of'
  _refuse(f'{where} another config', old, new, keys)
  was, now = kept['numerics'], numerics()
  where = f'{workdir} began with other settings of JAX, from the environment'
  _refuse(where, was, now, [name for name in was if name in now])


def check_evaluation(kept: dict, config: ConfigDict, workdir: str) -> None:
  """Refuses to evaluate a run as another one; arguments as in `check`."""
  old, new = _flat(kept['config']), _flat(config.to_dict())
  where = f'--eval_only takes {workdir} as it is'
  _refuse(where, old, new, EVALUATED)


def found(
  kept: dict, config: ConfigDict, step: int, workdir: str, rates: Callable
) -> list[dict]:
  """Lists what changes in config and JAX when the run resumes from `step`.

  Args:
    kept, config, workdir: as in `check`.
    step: step of the checkpoint.
    rates: function total_steps -> the config's schedule for that many steps.

  Returns:
    List of dict(step, field, was, now).

  Raises:
    ValueError: with the new total_steps, the learning rates so far would have
      been different.
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
  """Refuses a new total_steps if the rates of past steps depend on it."""
  was, now = (np.asarray(rate(np.arange(step))) for rate in (old, new))
  for i in np.flatnonzero(was != now)[:1]:
    raise ValueError(
      f'{workdir} has done {step} steps of {totals[0]}; with total_steps='
      f'{totals[1]} the learning rate of step {i + 1} would have been '
      f'{now[i]:.6g}, not {was[i]:.6g}: start another run.'
    )


def check_data(workdir: str, task: Any, steps: int) -> None:
  """Refuses to resume with data that has changed since the run began.

  Two things are compared: the checksum in the task's description of its data,
  which text data has, and process 0's share of five batches from all over the
  run. With another number of processes only the checksum is compared. All
  processes have to have one checksum, tokenizer and classes.

  Args:
    workdir: keeps both in data.json.
    task: tasks.Task.
    steps: total steps of the run when it began.

  Raises:
    ValueError: the data has changed, or processes read different data, or the
      file is damaged.
  """
  now = {k: x for k, x in task.describe().items() if k == 'checksum'}
  agree = {f'{k} of the data': x for k, x in now.items()}
  processes.agree('data', agree | task.meaning._asdict())
  if jax.process_index() != 0:  # process 0 reads all of the data for all
    return
  path = buckets.at(workdir) / 'data.json'
  crc = 0
  for step in sorted({i * max(steps - 1, 0) // 4 for i in range(5)}):
    for name, x in sorted(task.batch(step).items()):
      crc = zlib.crc32(np.ascontiguousarray(x), zlib.crc32(name.encode(), crc))
  now[f'checksum of batches, {jax.process_count()} processes'] = f'{crc:08x}'
  if not path.exists():
    atomic.save_json(path, now)
    return
  old = json_text.read_object(path)
  where = f'{workdir}: the data is not what the run began with'
  _refuse(where, old, now, [name for name in now if name in old])


def off_tables(changes: list[dict]) -> list[dict]:
  """Returns the changes that keep the row of a run out of tables."""
  return [x for x in changes if x['field'].startswith((*RECORDED, 'versions.'))]


def read(path: pathlib.Path, config: dict) -> tuple[list, dict]:
  """Reads the changes in a file, and the config after them.

  Args:
    path: path of changes.json; a missing file means no changes.
    config: config before the changes.

  Raises:
    ValueError: the file is damaged.
  """
  if not path.exists():
    return [], config
  changes = json_text.read_object(path).get('changes')
  flat = traverse_util.flatten_dict(config, keep_empty_nodes=True, sep='.')
  kinds = TypeError, LookupError, AttributeError, ValueError
  with checks.located(f'{path} is damaged', kinds):
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
      if field == 'total_steps' and now < 1:
        raise ValueError(f'{field} is {now}')
      flat[field] = now
  return changes, traverse_util.unflatten_dict(flat, sep='.')


def _differing(old, new):
  """Lists keys of flat configs whose values differ; NaN equals NaN."""
  return [
    key
    for key in old | new
    if json_text.to_json(old.get(key)) != json_text.to_json(new.get(key))
  ]


def _refuse(where, old, new, keys):
  """Raises a ValueError if values of these keys differ."""
  old, new = ({key: x.get(key) for key in keys} for x in (old, new))
  if wrong := [
    f'{key} was {old[key]!r}, is {new[key]!r}' for key in _differing(old, new)
  ]:
    raise ValueError(f'{where}: {"; ".join(wrong)}.')


def _flat(config):
  return traverse_util.flatten_dict(config, sep='.')
