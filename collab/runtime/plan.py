# SPDX-License-Identifier: Apache-2.0
"""Decides when a run logs, evaluates, saves and is traced."""

import math
import re

from flax import traverse_util
from ml_collections import ConfigDict


def due(config: ConfigDict, what: str, step: int) -> bool:
  """Returns whether 'log', 'eval' or 'checkpoint' follows a step (from 1)."""
  first = what == 'log' and step == 1  # shows at once that it runs
  last = step == config.total_steps
  return first or last or step % config.every[what] == 0


def traced(config: ConfigDict, profile: str, eval_only: bool) -> range:
  """The steps that --profile=FIRST:END means, counted from 1, without END.

  Raises:
    ValueError: it means none of the run's.
  """
  if not profile:
    return range(0)
  if eval_only:
    raise ValueError('--profile is of training, --eval_only trains nothing.')
  last = config.total_steps
  match = re.fullmatch('([0-9]{1,9}):([0-9]{1,9})', profile)
  first, end = map(int, match.groups()) if match else (0, 0)
  if not 1 <= first < end <= last + 1:
    raise ValueError(
      f'--profile={profile}; expected FIRST:END, as in 10:13 for the steps 10 '
      f'to 12, of the steps 1 to {last}.'
    )
  return range(first, end)


def check_seed(seed: int) -> None:
  """Refuses a seed that random keys, of 32 bits, would take for another one."""
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed={seed}; expected at least 0, below 2^32.')


def check(config: ConfigDict) -> None:
  """Raises ValueError for settings that would only fail at the end of a run."""
  c, every = config.checkpoint, config.every
  flat = traverse_util.flatten_dict(config.to_dict(), sep='.')
  for name, value in flat.items():
    for x in value if isinstance(value, tuple) else (value,):
      if isinstance(x, float) and not math.isfinite(x):
        raise ValueError(f'{name}={value!r}; expected a finite number.')
  check_seed(config.seed)
  for name in ('accumulate', 'data.row_length'):
    if name in flat and flat[name] < 1:
      raise ValueError(f'{name}={flat[name]}; expected at least 1.')
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
