# SPDX-License-Identifier: Apache-2.0
"""Which compression keeps most of a sentence encoder, at the same size?

all-MiniLM-L6-v2 (6 layers of width 384), of whose 22.7 million parameters 3.55
million are in attention; nothing is trained, but for 300 steps in which
`refined` layers are fitted to the old outputs. Each method gets the parameters
in attention that collaborative attention has with a quarter of the keys (2.25
million) or a twelfth (1.95 million), or the nearest number that it can have;
methods for other parts save as many there, a dropped layer a tenth more. They
look at 500 random sentences of STS-B's training set, or at 500 paragraphs of
books, and choose their widths by these alone. Heads are pruned by what a
layer's outputs lose, or by gradient: by the slope of their masks (1905.10650),
where the loss is the product of an embedding and a random vector. On the 1,500
pairs of STS-B's dev set: the mean cosine of the embeddings to the original's,
and Spearman's correlation of the pairs' cosines with the gold scores, and its
difference to the original's. Intervals are over pairs, and where there is a std
over three disjoint samples of sentences, for which they are too narrow, by a
factor of 0.8; of books all methods have three samples, too. `refined`, which is
slow, and `weights alone`, which looks at none, have one of sentences.

Seconds are of the processor, with compilation, and MiB the peak of a process
that converts once: 634 of them are there before it does. Milliseconds are those
of models with random weights on one core, for four sequences of 128 tokens or
one of 512. `collab, keys` and `collab, weights alone` are the same model there,
and so are both GQA: such pairs differ by up to 6 %.

**Collaborative keys with values of lower rank keep embeddings closest.** At
1.95 million their cosine is 0.983, against 0.978 of pruned neurons, 0.974 of a
lower rank of each head's keys and values by the same search, 0.967 of pruned
heads, 0.963 of those by gradient, and 0.928 without a layer; at 2.25 million it
is 0.990, against 0.984, 0.983, 0.975 and 0.975. No interval of another method
overlaps theirs. Refined, they gain 0.003 at 1.95 million and nothing at 2.25,
in one sample. They stay first if methods look at books, where all lose more:
0.963 against 0.953 of pruned neurons, 0.946 of low rank, 0.939 of heads by
gradient, 0.928 without a layer and 0.854 of pruned heads, at 1.95 million.
MLA and GQA, which keep all queries and outputs and have to save everything on
keys and values, are far behind (0.741 and 0.791 at 1.95 million, with
sentences).

**They are not the best in everything.** Spearman's correlation does not tell
the best apart. At 2.25 million heads pruned by gradient have the highest, 0.002
above the original's, and collaborative ones are 0.001 below it; at 1.95 million
they are 0.002 below it, as pruned heads are, while pruned neurons equal it.
With books, at both sizes, pruned neurons and heads by gradient lose about
half as much correlation (0.005 and 0.006 against 0.010 at 1.95 million), though
intervals overlap, and a dropped layer loses least (0.001).
And the models do not become faster. With 512 tokens they take a fifth longer
than the original, since their keys are four to five times as wide as those of a
head, while pruned heads save a quarter to a third of the time, and pruned
neurons a tenth. Nor are they the cheapest to make, with 81 seconds and 512 MiB
more, against 33 and 36 seconds of pruned neurons and heads; low rank takes 170.

**The gradient chooses heads better where texts are unlike.** With sentences
both ways are alike at 2.25 million, and the outputs' loss is better at 1.95 (by
0.004). With books it keeps a cosine of 0.939 against 0.854 at 1.95 million,
and of 0.955 against 0.949 at 2.25.
A gradient looks through all later layers, the loss of outputs at one. That is
with masks that leave a head's mean where it was, and slopes compared over
layers as they are. Divided by the norm of their layer's, as in the paper, and
with masks to zero, they kept a cosine of 0.906 at 1.95 million, where this kept
0.974, measured once on other sentences of the training set.

**Not run:** refined layers with other samples or books, times of heads pruned
by gradient (as of pruned heads), what else has no number, other models. `python
-m experiments.minilm --model=MODEL_DIR --glue=DIR --books=FILE --save` goes on
where it ended.
"""

from collections import defaultdict
import functools

import numpy as np

from experiments import intervals, results, study
from experiments import table as tables
from experiments.metric import COSINE, SPEARMAN

ORIGINAL = ('original', 0)
METRICS = COSINE, SPEARMAN
COLUMNS = (
  ('cost', 'seconds', 'seconds'),
  ('cost', 'peak_mib', 'MiB'),
  ('time', 'ms_128', 'ms, T=128'),
  ('time', 'ms_512', 'ms, T=512'),
)


def table() -> tables.Table:
  """Makes the table of all methods, at each size."""
  every = [
    row
    for row in results.rows(study.RESULTS / 'minilm.jsonl')
    if 'method' in row
  ]
  kinds = {'time': {}, 'cost': {}}
  arms = {}
  for row in every:
    kinds.get(row['texts'], arms).setdefault(_arm(row), row)
  near, far = (_measure(every, texts) for texts in ('STS-B', 'books'))
  best = lambda arm: (-(arm[1] or np.inf), -near[COSINE.title][arm].mean)
  order = sorted(arms, key=best)
  rows = []
  for arm in order:
    row, (method, size) = arms[arm], arm
    cells = {'size': f'{size / 1e6:.2f}M' if size else '', 'method': method}
    cells['in attention'] = f'{row["attention_parameters"]:,}'
    cells['in all'] = f'{row["parameters"]:,}'
    cells |= _cells(near, arm)
    x = far[COSINE.title].get(arm)
    cells['cosine, books'] = f'{x.mean:.4f}' if x else ''
    cells |= _difference(far[SPEARMAN.title].get(arm), ', books')
    for kind, field, name in COLUMNS:
      x = kinds[kind].get(arm)
      cells[name] = f'{x[field]:.0f}' if x else ''
    rows.append(cells)
  used = [name for name in rows[0] if any(row[name] for row in rows)]
  rows = [{name: row[name] for name in used} for row in rows]
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
    if of is COSINE:
      cells[f'{of.title}, 95 %'] = f'{x.low:.4f} to {x.high:.4f}'
    cells[f'{of.title}, std'] = '' if x.std is None else f'{x.std:.4f}'
  return cells | _difference(found[SPEARMAN.title][arm])


def _difference(x, where=''):
  """Cells of the difference to the original, where there is one."""
  ends = x.span if x and x.span else ()
  return {
    f'difference{where}': f'{x.difference:+.4f}' if ends else '',
    f'difference{where}, 95 %': ' to '.join(f'{end:+.4f}' for end in ends),
  }


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
