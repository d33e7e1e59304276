# SPDX-License-Identifier: Apache-2.0
"""Learning rate and dropout for `ptb`: multi-head attention, not tested.

Three rates, further ones where the best is the highest or the lowest, then two
other dropouts with the best rate: repeat the sweep until it has nothing to do.
Half of `ptb`'s steps. Scores are of the validation text. Needs RUNS/texts
(experiments.texts).
"""

from experiments import rates, study

RATES, DROPOUTS = (2e-3, 4e-3, 8e-3), (0.1, 0.0, 0.2)
STEPS = 1362  # of 2,048 words: three epochs
CONFIG = 'configs/decoder.py:s'


def fields(path: str, rate: float, dropout: float, steps: int) -> dict:
  """Makes the overrides of a run on words, the published 10,000 and no more."""
  return {
    'data.path': path,
    'data.kind': 'words',
    'data.vocab_size': 10_003,  # with special ones that the text lacks
    'model.dropout': dropout,
    'total_steps': steps,
    'optim.lr': rate,
    'optim.warmup_steps': steps // 15,
    'every.eval': steps // 4,
    'every.checkpoint': steps // 4,
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
    fields('{runs}/texts/ptb_rates', rate, dropout, STEPS // 2),
  )
  for dropout, rate in points()
]
