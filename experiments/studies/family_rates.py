# SPDX-License-Identifier: Apache-2.0
r"""Learning rates for `family`: twelve attentions, short runs, not tested.

The decoder of configs/decoder.py:s on books, with BPE of 2,000. What attention
saves goes into the MLP: without embeddings all have as many parameters, to
within 0.5 %. Every attention has three rates and, where the best is the highest
or the lowest, further ones: repeat the sweep until it has nothing to do. Scores
are of validation text. Needs RUNS/texts (experiments.texts), and RUNS/books:

  python -m experiments.kneser_ney --path=RUNS/texts/books --vocab_size=2000 \
      --folder=RUNS/books --tokens=2457600 --save
"""

from collections.abc import Sequence
import functools

from configs import decoder
from experiments import rates, study

NAMES = (
  'mha', 'gqa', 'mqa', 'skv', 'sha', 'collab', 'mhe_add', 'mhe_mul', 'mla',
  'gta', 'tpa', 'mfa',
)  # fmt: skip
RATES = 2e-3, 4e-3, 8e-3


def scores() -> dict[str, dict[float, float]]:
  """Returns {attention: {rate: bits per character}} of what has run."""
  return rates.scores('family_rates', 'bits_per_character')


def arm(
  name: str,
  words: str,
  rate: float,
  text: str = 'books',
  steps: int = 1200,
  seeds: Sequence[int] = (0, 1, 2),
) -> study.Arm:
  """Makes an arm of one size: without embeddings, MHA's parameters.

  Args:
    name: name of the arm.
    words: attention, as in a config.
    rate: peak learning rate.
    text: folder in RUNS/texts.
    steps: of 2,048 tokens each.
    seeds: seeds.
  """
  fields = {
    'data.path': f'{{runs}}/texts/{text}',
    'data.vocabulary': '{runs}/books/tokenizer.json',
    'data.folder': '{runs}/books',
    'data.vocab_size': 2000,
    'data.eval_stride': 128,
    'model.mlp_dim': mlp_dim(words),
    'total_steps': steps,
    'optim.lr': rate,
    'optim.warmup_steps': steps // 15,
    'every.eval': steps,
    'every.checkpoint': steps // 5,
  }
  return study.Arm(name, f'configs/decoder.py:s,{words}', fields, tuple(seeds))


@functools.cache
def mlp_dim(words: str) -> int:
  """Returns the width of the MLP with which all parameters are MHA's."""
  c = decoder.get_config(f's,{words}')
  return c.model.mlp_dim + decoder.saved(c, 1)


def tuned(name: str, words: str = '', **fields) -> study.Arm:
  """Makes an arm with the best rate of its attention; a ValueError if unknown.

  Args:
    name: name of the arm.
    words: attention, as in a config, if it is not the name.
    **fields: of `arm`.
  """
  words = words or name
  of = words.partition(',')[0]
  return arm(name, words, rates.best(of, RATES, scores()[of]), **fields)


ARMS = [
  arm(f'{name}-{rate:g}', name, rate, 'books_rates', 250, (0,))
  for name in NAMES
  for rate in rates.tried(RATES, scores()[name])
]
