# SPDX-License-Identifier: Apache-2.0
"""Learning rate and dropout for `ptb`: multi-head attention, not tested.

Five rates, further ones where the best is the highest or the lowest, then three
other dropouts with the best rate: repeat the sweep until it has nothing to do.
As long as in `ptb`. Scores are of the validation text. Needs RUNS/texts
(experiments.texts).
"""

from experiments import rates, study

RATES, DROPOUTS = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3), (0.2, 0.1, 0.3, 0.4)
STEPS = 2700  # of 4,096 words: twelve epochs
CONFIG = 'configs/decoder.py:s'


def fields(path: str, rate: float, dropout: float) -> dict:
  """Makes the overrides of a run on words, the published 10,000 and no more."""
  return {
    'data.path': path,
    'data.kind': 'words',
    'data.vocab_size': 10_003,  # with special ones that the text lacks
    'data.batch_size': 32,
    'model.dropout': dropout,
    'total_steps': STEPS,
    'optim.lr': rate,
    'optim.warmup_steps': STEPS // 15,
    'every.eval': STEPS,
    'every.checkpoint': STEPS,
  }


def name(dropout: float) -> str:
  """Returns the name of arms with a dropout, less their rate."""
  return f'dropout{dropout}'


def scores() -> dict[str, dict[float, float]]:
  """Returns {name: {rate: perplexity}} of what has run."""
  return rates.scores('ptb_rates', 'perplexity')


def chosen() -> tuple[float, float]:
  """Returns learning rate and dropout; a ValueError until both are known."""
  every, first = scores(), name(DROPOUTS[0])
  rate = rates.best(first, RATES, every[first])
  found = {x: every[name(x)].get(rate) for x in DROPOUTS}
  if None in found.values():
    raise ValueError('ptb_rates has dropouts to try: repeat its sweep.')
  return rate, min(found, key=found.get)


def points() -> list[tuple[float, float]]:
  """Lists pairs (dropout, rate) to try, as far as they are known."""
  first, *others = DROPOUTS
  found = scores()[name(first)]
  todo = rates.tried(RATES, found)
  todo = [(first, rate) for rate in todo]
  if all(rate in found for _, rate in todo):
    todo += [(x, min(found, key=found.get)) for x in others]
  return todo


ARMS = [
  study.Arm(
    f'{name(dropout)}-{rate:g}',
    f'{CONFIG},mha',
    fields('{runs}/texts/ptb_rates', rate, dropout),
  )
  for dropout, rate in points()
]
