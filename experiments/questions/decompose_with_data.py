# SPDX-License-Identifier: Apache-2.0
"""Does a conversion gain from data, and from a key width for each layer?

The paper decomposes the weights, with one key width for all layers.
What if the decomposition fits the scores of real inputs, and if each layer has
the width that it needs, at the same number of parameters? all-MiniLM-L6-v2 (6
layers of width 384) as collaborative attention, nothing fine-tuned: cosine of
3,000 sentence embeddings to the original's, and Spearman's correlation of their
pairs with the gold scores of STS-B, dev, of which the original has 0.867.

**Data helps much, a width for each layer does not.** With a quarter of the
keys, decomposed by looking at data, more is left than with half of them and
weights alone. Widths that are chosen by layer, by the errors of all layers'
scores, were a little worse than one width for all at the same parameters, and
as good at the narrowest (a budget chose them in an earlier version). One model,
and sentences of the kind that it looked at.

**Narrower values help more.** A budget (`--budget=parameters=N`) keeps the keys
wider and pays with values and outputs, of which each head keeps what matters.
At the parameters of a quarter of the keys the cosine is 0.991 instead of 0.978,
at those of a twelfth 0.985 instead of 0.942. Spearman's correlation is 0.865 at
both, instead of 0.861 and 0.849.

**Fine-tuning again does not make up for it**
([GLUE](../tables/glue_reparametrised.md), an epoch each, three seeds): with
half of the keys and data the scores are within 0.3 points of those of the model
that is not converted, on MRPC and STS-B weights alone cost 5 and 26 points;
with a quarter, data cost 0.9 and 3.5, weights alone 5 and 54. SST-2, where
little is lost in any way, and RTE, near chance, tell hardly anything apart. An
epoch is short; the paper, whose factors see weights alone, trains longer.
"""

from collections import defaultdict
import functools

import numpy as np

from experiments import intervals, results, study
from experiments import table as tables
from experiments.metric import COSINE, SPEARMAN

ORIGINAL = ('original', 0)
METRICS = COSINE, SPEARMAN


def table() -> tables.Table:
  """Makes the table of all methods, at each size."""
  every = [
    row
    for row in results.rows(study.RESULTS / 'minilm.jsonl')
    if 'method' in row
  ]
  arms = {}
  for row in every:
    if row['texts'] != 'time':
      arms.setdefault(_arm(row), row)
  order = sorted(arms, key=lambda arm: -(arm[1] or np.inf))
  times = {_arm(row): row for row in every if row['texts'] == 'time'}
  near, far = (_measure(every, texts) for texts in ('STS-B', 'books'))
  rows = []
  for arm in order:
    row, cells = arms[arm], {'method': arm[0]}
    cells['in attention'] = f'{row["attention_parameters"]:,}'
    cells['in all'] = f'{row["parameters"]:,}'
    cells |= _cells(near, arm)
    for of in METRICS:
      x = far[of.title].get(arm if arm != ORIGINAL else None)
      cells[f'{of.title}, books'] = f'{x.mean:.4f}' if x else ''
    cells['seconds'] = f'{row["seconds"]:.0f}' if 'seconds' in row else ''
    cells['MiB'] = str(row.get('more_mib', ''))
    for T in (128, 512):
      time = times.get(arm)
      cells[f'time, T={T}'] = f'{time[f"ratio_{T}"]:.2f}' if time else ''
    rows.append(cells)
  draw = functools.partial(_draw, order[1:], near)
  return tables.Table('Compressions at equal sizes', __doc__, rows, draw)


def _arm(row):
  return row['method'], row['size']


def _measure(every, texts):
  """Returns {title of a metric: {arm: Interval}}, samples in place of seeds."""
  found = {}
  for metric in METRICS:
    sums = defaultdict(list)
    for row in every:
      if row['texts'] in ('', texts):
        examples = results.examples(row, study.RESULTS)
        sums[_arm(row)].append(metric.sums(examples, row))
    found[metric.title] = intervals.compare(sums, metric.score, ORIGINAL)
  return found


def _cells(found, arm):
  cells = {}
  for of in METRICS:
    x = found[of.title][arm]
    cells[of.title] = f'{x.mean:.4f}'
    cells[f'{of.title}, 95 %'] = f'{x.low:.4f} to {x.high:.4f}'
    cells[f'{of.title}, std'] = '' if x.std is None else f'{x.std:.4f}'
  x = found[SPEARMAN.title][arm]
  cells['difference'] = '' if x.span is None else f'{x.difference:+.4f}'
  ends = [] if x.span is None else [f'{end:+.4f}' for end in x.span]
  return cells | {'difference, 95 %': ' to '.join(ends)}


def _draw(arms, found, figure):
  """Draws cosines, and the differences of Spearman's correlation."""
  names = list(dict.fromkeys(name for name, _ in arms))
  sizes = list(dict.fromkeys(size for _, size in arms))
  left, right = figure.subplots(1, 2, sharey=True)
  for i, size in enumerate(sizes):
    cosine, spearman = {}, {}
    for name in names:
      if (name, size) in arms:
        place = names.index(name) + 0.25 * (i - 0.5)
        x = found[COSINE.title][name, size]
        cosine[place] = x.mean, x.low, x.high
        x = found[SPEARMAN.title][name, size]
        spearman[place] = x.difference, *x.span
    style = dict(color=f'C{i}', capsize=2, ms=4)
    label = f'{size / 1e6:.2f} million in attention'
    tables.points(left, cosine, 'x', label=label, **style)
    tables.points(right, spearman, 'x', **style)
  for axis in (left, right):
    tables.label_rows(axis, names)
  right.axvline(0, color='#888888', lw=1)
  left.set_xlabel('cosine to the original')
  right.set_xlabel("Spearman less the original's")
  left.legend(fontsize=7)
