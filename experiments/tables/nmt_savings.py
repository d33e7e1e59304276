# SPDX-License-Identifier: Apache-2.0
"""BLEU against the parameters and the cache that each attention needs.

Parameters are those of all attention layers, and the cache is what decoding
keeps of a token in one layer. Both are shares of multi-head attention's. All
arms of the study have one budget. The change in BLEU is paired: arms are
compared on the same seeds and sentences, so its interval is narrower than those
of the scores.
"""

from collab import attention
from experiments import metric, study
from experiments import table as tables

ARMS = {  # arm: label, from the most parameters to the fewest
  'mha': 'MHA',
  'mha-96': 'MHA, keys 1/2',
  'collab-96': 'collaborative, 1/2',
  'skv': 'SKV',
  'mha-48': 'MHA, keys 1/4',
  'collab-48': 'collaborative, 1/4',
  'mqa': 'MQA',
  'el': 'EL-ATT',
  'mhe_mul': 'MHE-MUL',
  'mhe_add': 'MHE-ADD',
  'sha': 'SHA',
}
COLUMNS = 'parameters', 'cache'


def caches() -> dict[str, int]:
  """Returns {label: scalars of a token in a layer's cache}."""
  found = {}
  for run in study.plan('translation'):
    model = study.config(run).model
    layer = attention.build(**model.attention)
    found[ARMS[run.arm.name]] = layer.cache_size(model.dim)
  return found


def table() -> tables.Table:
  found = tables.measure(['translation'], metric.BLEU, ARMS, 'MHA')
  shares = {}
  if 'MHA' in found:
    cache, full = caches(), found['MHA'].attention
    shares = {
      label: (tables.ratio(x.attention, full), cache[label] / cache['MHA'])
      for label, x in found.items()
    }
  rows = []
  for label in ARMS.values():
    share = [f'{x:.3f}' for x in shares.get(label, ())] or ['', '']
    row = dict(zip(('attention', *COLUMNS), (label, *share), strict=True))
    rows.append(row | tables.cells(found.get(label), metric.BLEU, 'BLEU'))

  def draw(figure):
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(2, 2, 3))
    labels = list(ARMS.values())
    for i, title in enumerate(COLUMNS):
      for place, label in enumerate(labels):
        if label in shares:
          x = shares[label][i]
          axes[i].barh(place, x, color='#b9c7de', height=0.7)
          axes[i].text(0.03, place, f'{x:.2f}', va='center', fontsize=9)
      axes[i].set_title(f"{title}, share of MHA's", fontsize=10)
      axes[i].set(xlim=(0, 1), xticks=[])
      axes[i].spines[['top', 'right', 'bottom']].set_visible(False)
    tables.bars(axes[2], labels, tables.differences(found))
    axes[2].axvline(0, color='#888888', lw=1)
    axes[2].set_title("BLEU minus MHA's, 95 % interval", fontsize=10)

  text = __doc__ + tables.notes([found])
  return tables.Table('BLEU, parameters and cache', text, rows, draw)
