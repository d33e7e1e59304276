# SPDX-License-Identifier: Apache-2.0
"""How small can the cache of a decoder with rotary positions be made?

SmolLM2-135M-Instruct (30 layers of width 576, 9 heads, 3 of keys) with a half
and a quarter of its cache, nothing fine-tuned: perplexity of a token.
"""

from collab.io import json_text
from experiments import results, study
from experiments import table as tables

METHODS = {
  'original': 'original',
  'planes': 'complex PCA of planes, fitted (ours)',
  'transmla': "TransMLA's",
  'mha2mla': "MHA2MLA's",
  'mean': 'mean of the key heads (MQA)',
  'svd': 'SVD, keys rotated in each step',
}
TEXTS = {'wikitext-2': 'WikiText-2', 'books': 'books'}


def table() -> tables.Table:
  """Makes the table of perplexities by cache and method."""
  rows, found = [], []
  path = study.RESULTS / 'rotary.jsonl'
  for row in results.rows(path, method=str, cache=int):
    json_text.require(row, path, **dict.fromkeys(TEXTS, float))
    found.append(row)
  found.sort(key=lambda row: (-row['cache'], row['wikitext-2']))
  for row in found:
    rows.append(
      {
        'cache of a layer': str(row['cache']),
        'method': METHODS[row['method']],
        **{name: f'{row[key]:.4g}' for key, name in TEXTS.items()},
        'seconds to convert': str(row.get('seconds', '')),
      }
    )

  def draw(figure):
    for axis, (key, name) in zip(
      figure.subplots(1, 2), TEXTS.items(), strict=True
    ):
      for method, label in METHODS.items():
        line = [row for row in found if row['method'] == method]
        x, y = ([row[part] for row in line] for part in ('cache', key))
        axis.plot(x, y, 'o-', label=label)
      axis.set(xlabel='scalars a token and layer', title=name, yscale='log')
      axis.set_ylabel('perplexity')
      tables.tidy(axis)
    axis.legend(fontsize=7)

  title = 'A smaller cache for keys that rotate'
  return tables.Table(title, __doc__, rows, draw)
