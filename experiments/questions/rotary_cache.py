# SPDX-License-Identifier: Apache-2.0
"""How small can the cache of a decoder with rotary positions be made?

SmolLM2-135M-Instruct (30 layers of width 576, 9 heads, 3 of keys) with a half
and a quarter of its cache, nothing fine-tuned ([what the methods
do](../../docs/how-to/compress.md#decoders-with-rotary-positions)): perplexity
of a token on the first twelve windows of 512 tokens of WikiText-2's test text
and of the books'. All methods look at the same 8,192 tokens of WikiText-2's
training text. Brackets have 95 % of bootstrap replicates of the windows, which
are the same for all.

**Of those whose cache is read as it is, ours (`planes`) loses least. A low rank
that rotates when it is read (`svd`, ours too) loses less still, and computes
more.** With half of the cache the perplexity rises from 34.0 to 39.1 on
WikiText-2 and from 42.4 to 49.1 on the books; TransMLA's method gives 52.3 and
66.1. With a quarter ours has 74.1 and 97.8, TransMLA's 141 and 155. The low
rank gets 35.6 and 44.3 with a half, 50.4 and 68.4 with a quarter; a plain PCA
of keys and values, read likewise, gets 36.2 and 46.1, 63.0 and 83.0 (all four
differences are clear: the nearest is 0.65, 0.35 to 0.98). But each step makes
the keys and values of all tokens again: 74,000 multiplications for a token in
the cache of a layer (221,000 in this implementation, which makes them for each
head) where `planes` takes about 3,000 and the original 1,150.

The reason: what rotates in the cache costs two scalars for each plane, and no
value can be read from it. A cache at rest has all its scalars for keys and
values alike.

**What helped is where queries look.** Keys count at the distances of the tokens
that queries look at, by what an error there does to the output, and values as
queries mix them. Before, all distances counted the same, and tokens one by one.
Then, on the first four of the windows, `planes` had 37.1 and 56.6 with a half
where it has 33.6 and 50.0 now, and 97.3 and 149 with a quarter where it has
59.1 and 94.3. The low rank had 32.1 and 47.7, now 31.0 and 44.9; 48.7 and 81.5,
now 41.4 and 66.5. Outputs that are fitted again to those of the original gave
nothing on other texts. Three layers were looked at by hand: with fewer planes
than the error chooses all three would have lost a little less. What counts was
chosen by the outputs of five layers, on the first two windows of both texts,
which are among the twelve.

The original has the perplexity that Transformers has from the same file, to
0.002 %, and continues a prompt with the same text
([row](../results/rotary_transformers.jsonl)). To look took 148 seconds of the
processor and to convert 40, on a core that others used; a whole conversion on
two free cores was not timed.

A small sample: one text to look at, 6,132 tokens a text to score, one model.
All methods are ours after the papers, and choose how much rotates by the same
error. The papers' methods are meant to be trained afterwards, which was not
done here. MHA2MLA's method and the mean of the key heads were measured on the
first four windows only, before: 676 and 474 with a half, 924 and 676 with a
quarter; 33,900 and 15,300 with a third.
"""

import numpy as np

from experiments import intervals, results, study
from experiments import table as tables

OURS = 'planes'
METHODS = {
  'original': 'original',
  'planes': 'planes: complex PCA, fitted (ours)',
  'svd': 'SVD, fitted, keys rotated in each step (ours)',
  'transmla': "TransMLA's",
  'pca': 'PCA, keys rotated in each step',
  'mha2mla': "MHA2MLA's",
}
FAR = {'mean': 'mean of the key heads (MQA)'}  # beyond the picture
TEXTS = {'wikitext-2': 'WikiText-2', 'books': 'books'}


def table() -> tables.Table:
  """Makes the table of perplexities by cache and method."""
  path = study.RESULTS / 'rotary.jsonl'
  found = results.rows(path, method=str, cache=int, losses=dict)
  measured = {text: _compared(found, text) for text in TEXTS}
  of = lambda row, text: measured[text][row['method'], row['cache']]
  found.sort(key=lambda row: (-row['cache'], of(row, 'books').mean))
  rows = []
  for row in found:
    cells = {'cache of a layer': str(row['cache'])}
    cells['method'] = (METHODS | FAR)[row['method']]
    for text, name in TEXTS.items():
      x = of(row, text)
      cells[name] = f'{x.mean:.4g}'
      cells[f'{name}, against planes'] = (
        ''
        if x.span is None
        else (f'{x.difference:+.3g} ({x.span[0]:+.3g} to {x.span[1]:+.3g})')
      )
    seconds = row.get('seconds')
    cells['seconds'] = '' if seconds is None else f'{seconds:.0f}'
    rows.append(cells)

  def draw(figure):
    for axis, (text, name) in zip(
      figure.subplots(1, 2), TEXTS.items(), strict=True
    ):
      for method, label in METHODS.items():
        line = [row for row in found if row['method'] == method]
        x = [row['cache'] for row in line]
        axis.plot(x, [of(row, text).mean for row in line], 'o-', label=label)
      axis.set(xlabel='scalars a token and layer', title=name, yscale='log')
      axis.set_ylabel('perplexity')
      tables.tidy(axis)
    axis.legend(fontsize=7)

  title = 'A smaller cache for keys that rotate'
  return tables.Table(title, __doc__, rows, draw)


def _compared(rows, text):
  """Returns {(method, cache): Interval}, against ours of the same cache."""
  found = {}
  for cache in {row['cache'] for row in rows}:
    arms = {
      row['method']: [[(x, 1) for x in row['losses'][text]]]
      for row in rows
      if row['cache'] == cache
    }
    score = lambda sums: np.exp(sums[:, 0] / sums[:, 1])
    compared = intervals.compare(arms, score, OURS)
    found |= {(method, cache): x for method, x in compared.items()}
  return found
