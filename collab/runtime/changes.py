# SPDX-License-Identifier: Apache-2.0
"""What may be another when a run goes on, and what has been."""

from absl import logging
from flax import traverse_util
import jax
import numpy as np

from collab.io import json_text
from collab.runtime import provenance

# The numbers of a run stay what they are with others of these.
FREE = ('every', 'checkpoint', 'wandb', 'skip_nonfinite')
# With others of these, or of JAX, they are those of no run from its start: the
# row of such a run enters no table. total_steps may only grow.
RECORDED = ('fsdp', 'accumulate', 'total_steps')
VERSIONS = ('jax', 'jaxlib')
WORDS = 'every.*, checkpoint.*, wandb, skip_nonfinite, fsdp, accumulate'
# Settings of JAX that results depend on: of a run they never change.
NUMERICS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
)


def numerics():
  return {name: getattr(jax.config, name) for name in NUMERICS}


def check(kept, config, workdir):
  """Refuses to go on with what would be another run.

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
    for name, was in kept.get('numerics', {}).items()
    if name in now and now[name] != was
  ]:
    raise ValueError(
      f'{workdir} began with other settings of JAX, from the environment: '
      f'{"; ".join(wrong)}.'
    )


def found(kept, config, step, workdir, rates):
  """The changes of a start that goes on from `step`, of config and JAX.

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
  here = provenance.versions()
  for name in VERSIONS:
    field = f'versions.{name}'
    new[field] = old[field] = here[name]
    if isinstance(versions := kept.get('versions'), dict):
      old[field] = versions.get(name, here[name])
    for change in kept['changes']:
      if change['field'] == field:
        old[field] = change['now']
    if old[field] != here[name]:
      told = '%s goes on with %s %s, not %s: its results may be others.'
      logging.warning(told, workdir, name, here[name], old[field])
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


def off_tables(changes):
  """Those of some changes that keep the row of their run from tables."""
  return [x for x in changes if x['field'].startswith((*RECORDED, 'versions.'))]


def read(path, config):
  """The changes in a file, [] if it is missing; the config gets them.

  Args:
    path: of changes.json.
    config: nested dict, changed in place.

  Raises:
    ValueError: the file is damaged.
  """
  if not path.exists():
    return []
  changes = json_text.read_object(path).get('changes')
  try:
    for change in changes:
      int(change['step'])
      *groups, last = change['field'].split('.')
      if groups == ['versions']:
        continue
      if (groups or [last])[0] not in FREE + RECORDED:
        raise ValueError(f'{change["field"]} never changes')
      values = config
      for group in groups:
        values = values[group]
      if type(change['now']) is not type(values[last]):
        raise ValueError(f'{change["field"]} is {change["now"]!r}')
      values[last] = change['now']
  except (TypeError, LookupError, AttributeError, ValueError) as e:
    raise ValueError(f'{path} is damaged: {e}.') from e
  return changes


def _differing(old, new):
  """Keys of flat configs whose values are not the same; NaN is the same."""
  return [
    key
    for key in old | new
    if json_text.to_json(old.get(key)) != json_text.to_json(new.get(key))
  ]


def _flat(config):
  return traverse_util.flatten_dict(config, sep='.')
