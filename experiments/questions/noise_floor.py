# SPDX-License-Identifier: Apache-2.0
"""How large must a difference be, to be more than noise of seeds?

Runs of one arm that differ by their seed alone spread by sigma, the standard
deviation, pooled over the arms of a study; with its 95 % interval, for seeds
are few. A difference of two means of three seeds has to be 2.3 sigma, to be
found in four of five cases at p < 0.05, if sigma is known; more where few runs
tell sigma, as the table has it; and more if it is the largest of several arms
against MHA (Holm's correction, of which the last column is a share). Smaller
differences need more seeds: at least 16 (sigma / difference)² an arm. Seeds
alone: the test set, which all arms share, adds to this.
"""

from typing import NamedTuple

import numpy as np

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
      ('arms', 'runs', 'sigma', '95 % of it', f'smallest, {SEEDS} seeds',
       'after Holm', "of the arms' mean"), ''
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
      row |= {
        'arms': str(len(found)),
        'runs': str(len(values)),
        'sigma': number(sigma),
        '95 % of it': ' to '.join(map(number, ends)),
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
