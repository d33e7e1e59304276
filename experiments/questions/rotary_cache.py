# SPDX-License-Identifier: Apache-2.0
"""How small can the cache of a decoder with rotary positions be made?

SmolLM2-135M-Instruct (30 layers of width 576, 9 heads, 3 of keys) with a half
and a quarter of its cache by four methods, and a third by another ([what they
do](../../docs/how-to/compress.md#decoders-with-rotary-positions)), nothing
fine-tuned: perplexity of a token on the first four windows of 512 tokens of
WikiText-2's test text and of the books'. All methods look at the same 8,192
tokens of WikiText-2's training text.

**Ours loses least of those whose cache is read as it is, and is not the best of
all.** With half of the cache the perplexity rises from 30.0 to 37.1 on
WikiText-2 and from 42.8 to 56.6 on the books; TransMLA's method gives 50.4 and
70.1, and MHA2MLA's, which looks at weights alone and counts on training, 676
and 474. A joint low rank of keys and values that have not rotated yet is
better, 32.1 and 47.7, but each step makes the keys and values of all tokens
again: 74,000 multiplications for a token in the cache of a layer (221,000 in
this implementation, which makes them for each head) where ours takes about
3,000 and the original 1,150.

With a quarter all lose much: ours has 97.3 and 149, TransMLA's 165 and 153,
hardly worse on the books, and MHA2MLA's 924 and 676; the low rank that rotates
when it is read, 48.7 and 81.5.

A small sample: one text to look at, 2,044 tokens a text to score, one model.
All methods are ours after the papers, and choose how much rotates by the same
error. The papers' methods are meant to be trained afterwards, which was not
done here. Seconds are those of a core that others used, too.
"""

import numpy as np

from experiments import intervals, results, study
from experiments import table as tables

OURS = 'planes'
METHODS = {
  'original': 'original',
  'planes': 'complex PCA of planes, fitted (ours)',
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
      cells[f'{name}, against ours'] = (
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
