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
import math

from collab import checks
from collab.io import json_text
from experiments import results, study
from experiments import table as tables

WAYS = {
  'plain': 'weights alone',
  'data-aware': 'looks at data',
  'per layer': 'looks at data, a width for each layer',
  'keys and values': 'looks at data, values narrower, too',
}


def table() -> tables.Table:
  """Makes the table of converted embeddings' quality, by key width and way."""
  found, rows, original = defaultdict(list), [], math.nan
  path = study.RESULTS / 'minilm.jsonl'
  for row in results.rows(path):
    if 'method' in row:  # of equal_sizes
      continue
    json_text.require(row, path, way=str, key_width=int)
    row |= {x: results.as_float(row.get(x)) for x in ('cosine', 'spearman')}
    if row['way'] == 'original':
      original = row['spearman']
      continue
    checks.one_of(f'{path}: way', row['way'], WAYS)
    json_text.require(row, path, attention_parameters=int, widths=object)
    found[row['way']].append(row)
    widths = row['widths'] if isinstance(row['widths'], list) else []
    if row['way'] == 'keys and values':  # the same in all layers
      widths = [row['widths']]
    values = [sum(heads) for heads in row.get('values') or []]
    rows.append(
      {
        'key width': str(row['key_width']),
        'decomposition': WAYS[row['way']],
        'widths of the layers': '/'.join(map(str, widths)),
        'and of their values': '/'.join(map(str, values)),
        'in attention': f'{row["attention_parameters"]:,}',
        'cosine': f'{row["cosine"]:.4f}',
        'Spearman': f'{row["spearman"]:.3f}',
      }
    )

  def draw(figure):
    panels = figure.subplots(1, 2)
    keys = dict(cosine='cosine to the original', spearman='Spearman')
    ends = dict(cosine=1, spearman=original)
    for axis, (key, label) in zip(panels, keys.items(), strict=True):
      for way, line in found.items():
        x = [row['attention_parameters'] / 1e6 for row in line]
        axis.plot(x, [row[key] for row in line], 'o-', label=WAYS[way])
      axis.axhline(ends[key], color='#888888', lw=1, label='original')
      axis.set(xlabel='million parameters in attention', ylabel=label)
      tables.tidy(axis)
    panels[0].legend(loc='lower right', fontsize=9)

  title = 'Plain or data-aware, one width or one a layer'
  return tables.Table(title, __doc__, rows, draw)
