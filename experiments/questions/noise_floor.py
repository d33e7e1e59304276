# SPDX-License-Identifier: Apache-2.0
"""How large must a difference be, to be more than noise of seeds?

Runs of one arm differ by their seed. Their scores spread with a standard
deviation sigma, which is pooled here over the arms of a study. Its interval is
wide, because seeds are few. Pooling takes the arms to spread alike: a column
has the smallest and the largest standard deviation of one arm, and p is that of
Bartlett's test. Where it is small, as between the recipes, sigma is too large
for some arms and too small for others.

Suppose that two means of three seeds are compared at p < 0.05, and that a true
difference should be found in four of five cases. If sigma is known, the
difference has to be 2.3 sigma. Here it is more, since few runs tell sigma: that
is the column `smallest`. It is more again if it is the largest of several arms
against MHA: `after Holm`, which the last column has as a share of the arms'
mean score. Smaller differences need more seeds, at least 16 (sigma /
difference)² an arm. This is about seeds alone. The test set, which all arms
share, adds to it.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments import intervals, metric
from experiments import table as tables

SEEDS = 3


class Group(NamedTuple):
  """Arms whose seeds spread alike.

  Attributes:
    title: what they are.
    studies: their studies.
    of: metric.
    compared: number of arms that are compared with MHA.
  """

  title: str
  studies: tuple
  of: metric.Metric
  compared: int


GROUPS = (
  Group('books', ('noise', 'family'), metric.BITS, 11),
  Group('Penn Treebank', ('ptb',), metric.PERPLEXITY, 7),
  Group('WikiText-2, recipes', ('recipe',), metric.BITS, 7),
  Group('English to German', ('translation',), metric.BLEU, 10),
  Group('German to English', ('german_english',), metric.BLEU, 5),
  Group('Fashion-MNIST', ('vision',), metric.TOP1, 4),
)


def table() -> tables.Table:
  """Makes the table of sigma and the smallest effect, by study."""
  rows, effects = [], {}
  for group in GROUPS:
    found = tables.seeds(group.studies, group.of).values()
    sigma, freedom = intervals.pooled(found)
    number = lambda x, of=group.of: f'{x:.{of.digits + 1}f}'
    row = dict.fromkeys(
      ('arms', 'runs', 'sigma', '95 % of it', 'of one arm', 'alike, p',
       f'smallest, {SEEDS} seeds', 'after Holm', "of the arms' mean"), ''
    )  # fmt: skip
    if freedom:
      one, holm = (
        intervals.smallest_effect(sigma, SEEDS, n, freedom=freedom)
        for n in (1, group.compared)
      )
      values = [x for arm in found for x in arm]
      mean = sum(values) / len(values)
      shares = [100 * tables.ratio(x, mean) for x in (one, holm)]
      if np.isfinite(shares).all():
        effects[group.title] = shares
      ends = intervals.of_sigma(sigma, freedom)
      several = [x for x in found if len(x) > 1]
      spreads = [np.std(x, ddof=1) for x in several]
      row |= {
        'arms': str(len(found)),
        'runs': str(len(values)),
        'sigma': number(sigma),
        '95 % of it': ' to '.join(map(number, ends)),
        'of one arm': ' to '.join(map(number, (min(spreads), max(spreads)))),
        'alike, p': f'{_alike(several):.3f}' if len(several) > 1 else '',
        f'smallest, {SEEDS} seeds': number(one),
        'after Holm': number(holm),
        "of the arms' mean": f'{shares[1]:.1f} %',
      }
    else:
      row['sigma'] = tables.NOT_RUN
    names = {'runs of': group.title, 'score': group.of.title}
    rows.append(names | row)

  def draw(figure):
    axis = figure.subplots()
    titles = [group.title for group in GROUPS]
    for i, label in enumerate(('one comparison', 'after Holm')):
      places = {titles.index(k): x[i] for k, x in effects.items()}
      axis.plot(
        list(places.values()), list(places), 'os'[i], color=f'C{i}', label=label
      )
    tables.label_rows(axis, titles)
    axis.set(xlabel=f'smallest difference of {SEEDS} seeds, % of the mean')
    axis.set_xlim(left=0)
    axis.legend()

  return tables.Table('The noise floor', __doc__, rows, draw)


@np.errstate(all='ignore')  # a diverged seed has nan; equal scores have log 0
def _alike(arms):
  """Returns p of Bartlett's test: do the arms spread alike?"""
  return stats.bartlett(*arms).pvalue
