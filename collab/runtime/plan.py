# SPDX-License-Identifier: Apache-2.0
"""Decides when a run logs, evaluates, saves and is traced."""

import math
import re

from flax import traverse_util
from ml_collections import ConfigDict

from collab import checks


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


SEEDS = 0, 2**32 - 1  # random keys would take others for one of these


def check(config: ConfigDict) -> None:
  """Raises ValueError for settings that would only fail at the end of a run."""
  c, every = config.checkpoint, config.every
  flat = traverse_util.flatten_dict(config.to_dict(), sep='.')
  for name, value in flat.items():
    for x in value if isinstance(value, tuple) else (value,):
      if isinstance(x, float) and not math.isfinite(x):
        raise ValueError(f'{name}={value!r}; expected a finite number.')
  checks.within('seed', config.seed, *SEEDS)
  counts = ('accumulate', 'data.row_length', 'data.image_size', 'total_steps')
  for name, value in flat.items():
    if name in counts or name.startswith('every.'):
      checks.at_least(name, value, 1)
  checks.at_least('skip_nonfinite', config.skip_nonfinite, 0)
  checks.one_of('checkpoint.final', c.final, ('last', 'best'))
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
