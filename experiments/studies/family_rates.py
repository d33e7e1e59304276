# SPDX-License-Identifier: Apache-2.0
r"""Learning rates for `family`: twelve attentions, short runs, not tested.

The decoder of configs/decoder.py:s on books, with BPE of 2,000. What attention
saves goes into the MLP: without embeddings all have as many parameters, to
within 0.5 %. Every attention has three rates and, where the best is the
highest or the lowest, further ones: repeat the sweep until it has nothing to
do. Scores are of validation text. Needs RUNS/texts (experiments.texts), and
RUNS/books:

  python -m experiments.kneser_ney --path=RUNS/texts/books --vocab_size=2000 \
      --folder=RUNS/books --tokens=4096000 --batch_size=16 --save
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

from configs import decoder
from experiments import rates, study

NAMES = (
  'mha', 'gqa', 'mqa', 'skv', 'sha', 'collab', 'mhe_add', 'mhe_mul', 'mla',
  'gta', 'tpa', 'mfa',
)  # fmt: skip
RATES = 4e-3, 8e-3, 16e-3


class Budget(NamedTuple):
  """What the runs of a size read.

  Attributes:
    study: name of the study of its learning rates.
    rows: rows of a step.
    length: tokens of a row.
    steps: steps of a run.
    tries: steps of a run that compares rates, of 1 or 2 million tokens.
  """

  study: str
  rows: int
  length: int
  steps: int
  tries: int


SIZES = dict(
  s=Budget('family_rates', 16, 128, 2000, 500),
  m=Budget('family_m_rates', 32, 256, 3200, 250),
)


def scores(size: str = 's') -> dict[str, dict[float, float]]:
  """Returns {attention: {rate: bits per character}} of what has run."""
  return rates.scores(SIZES[size].study, 'bits_per_character')


def arm(
  name: str,
  words: str,
  rate: float,
  size: str = 's',
  text: str = 'books',
  steps: int = 0,
  seeds: Sequence[int] = (0, 1, 2),
) -> study.Arm:
  """Makes an arm of one size: without embeddings, MHA's parameters.

  Args:
    name: name of the arm.
    words: attention, as in a config.
    rate: peak learning rate.
    size: one of `SIZES`.
    text: folder in RUNS/texts.
    steps: by default those of the size.
    seeds: seeds.
  """
  budget = SIZES[size]
  steps = steps or budget.steps
  fields = {
    'data.path': f'{{runs}}/texts/{text}',
    'data.vocabulary': '{runs}/books/tokenizer.json',
    'data.folder': '{runs}/books',
    'data.vocab_size': 2000,
    'data.row_length': budget.length,
    'data.batch_size': budget.rows,
    'data.eval_stride': budget.length,
    'model.mlp_dim': mlp_dim(size, words),
    'total_steps': steps,
    'optim.lr': rate,
    'optim.warmup_steps': steps // 15,
    'every.eval': steps,
    'every.checkpoint': steps,
  }
  return study.Arm(
    name, f'configs/decoder.py:{size},{words}', fields, (*seeds,)
  )


@functools.cache
def mlp_dim(size: str, words: str) -> int:
  """Returns the width of the MLP with which all parameters are MHA's."""
  c = decoder.get_config(f'{size},{words}')
  return c.model.mlp_dim + decoder.saved(c, 1)


def tries(size: str, names: Sequence[str]) -> list[study.Arm]:
  """Makes the arms that compare rates of some attentions."""
  steps, found = SIZES[size].tries, scores(size)
  return [
    arm(f'{name}-{rate:g}', name, rate, size, 'books_rates', steps, (0,))
    for name in names
    for rate in rates.tried(RATES, found[name])
  ]


def tuned(name: str, words: str = '', size: str = 's', **fields) -> study.Arm:
  """Makes an arm with the best rate of its attention; a ValueError if unknown.

  Args:
    name: name of the arm.
    words: attention, as in a config, if it is not the name.
    size: one of `SIZES`.
    **fields: of `arm`.
  """
  words = words or name
  of = words.partition(',')[0]
  rate = rates.best(of, RATES, scores(size)[of])
  return arm(name, words, rate, size, **fields)


ARMS = tries('s', NAMES)
