# SPDX-License-Identifier: Apache-2.0
"""Defines the metrics of the tables, as functions of sums over examples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from collab.metrics import bleu
from experiments import intervals, results


class Metric(NamedTuple):
  """A metric of a task.

  Attributes:
    title: heading in the table, with the unit.
    sums: function (examples of a run, its metrics) -> [N, K], what each example
      adds.
    score: function sums [..., K] -> scores [...].
    name: name of the score in a run's metrics, for runs without examples.
    scale: factor of that score.
    digits: number of decimal places in a table.
    lower: whether lower is better.
    test: test against a baseline.
  """

  title: str
  sums: Callable
  score: Callable
  name: str
  scale: int = 1
  digits: int = 1
  lower: bool = False
  test: Callable = intervals.two_sided

  def value(self, found: dict) -> float:
    """Returns the score in the metrics of a run, nan if it is missing."""
    return self.scale * results.as_float(found.get(self.name))


def _bleu(sums):
  return np.apply_along_axis(bleu.of_counts, -1, sums)


def _text(examples, found):
  """Returns loss and words of each piece; words are spread over its tokens."""
  nll, tokens = (np.float64(examples[key]) for key in ('nll', 'tokens'))
  return np.stack([nll, tokens * (found['words'] / tokens.sum())], 1)


def _bits(examples, found):
  """Returns bits and characters of each piece, spread like words."""
  nll, tokens = (np.float64(examples[key]) for key in ('nll', 'tokens'))
  bits = nll / np.log(2)
  characters = bits.sum() / found['bits_per_character']
  return np.stack([bits, tokens * (characters / tokens.sum())], 1)


def _classes(examples, found):
  """Counts right answers, predicted, true and found positives, examples."""
  gold, ours = (np.array(examples[x]) == 1 for x in ('gold', 'predicted'))
  right = np.equal(examples['gold'], examples['predicted'])
  return np.stack([right, ours, gold, gold & ours, np.ones(len(gold))], 1)


def _f1_accuracy(sums):
  right, ours, gold, both, n = np.moveaxis(sums, -1, 0)
  f1 = np.divide(2 * both, ours + gold, np.zeros_like(n), where=ours + gold > 0)
  return 50 * (f1 + right / n)


def _moments(examples, found):
  """Computes moments of values, and of ranks in the whole test set."""
  columns = []
  for rank in (np.asarray, stats.rankdata):
    x, y = (rank(np.float64(examples[key])) for key in ('gold', 'predicted'))
    x, y = (z - np.mean(z) for z in (x, y))  # centred: sums do not cancel
    columns += [x, y, x * x, y * y, x * y]
  return np.stack([*columns, np.ones(len(columns[0]))], 1)


def _correlation(sums):
  """Computes the correlation of x and y from x, y, xx, yy, xy and n."""
  x, y, xx, yy, xy, n = np.moveaxis(sums, -1, 0)
  spread = (xx - x * x / n) * (yy - y * y / n)
  return (xy - x * y / n) / np.sqrt(spread)


def _correlations(sums):
  n = sums[..., -1:]
  parts = sums[..., :5], sums[..., 5:-1]
  return 50 * sum(_correlation(np.concatenate([x, n], -1)) for x in parts)


def _share(sums):
  """Computes the first sum as % of the last."""
  return 100 * sums[..., 0] / sums[..., -1]


BLEU = Metric(
  'BLEU',
  lambda x, found: np.array(x['bleu']),
  _bleu,
  'bleu',
  digits=2,
  test=intervals.sacrebleu,
)
PERPLEXITY = Metric(
  'perplexity of a word',
  _text,
  lambda sums: np.exp(sums[..., 0] / sums[..., 1]),
  'perplexity',
  lower=True,
)
BITS = Metric(
  'bits per character',
  _bits,
  lambda sums: sums[..., 0] / sums[..., 1],
  'bits_per_character',
  digits=4,
  lower=True,
)
TOP1 = Metric(
  'top-1, %',
  lambda x, found: np.stack([x['right'], np.ones(len(x['right']))], 1),
  _share,
  'top1',
  100,
  digits=2,
)
ACCURACY = Metric('accuracy, %', _classes, _share, 'score', 100)
SPEARMAN = Metric(
  'Spearman',
  lambda x, found: _moments(x, found)[:, 5:],
  _correlation,
  'spearman',
  digits=4,
)
COSINE = Metric(
  'cosine',
  lambda x, found: np.stack([x['cosine'], np.ones(len(x['cosine']))], 1),
  lambda sums: sums[..., 0] / sums[..., 1],
  'cosine',
  digits=4,
)
F1_ACCURACY = ACCURACY._replace(
  title='mean of F1 and accuracy, %', score=_f1_accuracy
)
CORRELATION = ACCURACY._replace(
  title="mean of Pearson's and Spearman's correlation, %",
  sums=_moments,
  score=_correlations,
)
