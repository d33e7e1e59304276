# SPDX-License-Identifier: Apache-2.0
"""BLEU against key width: 2006.16362, the figure of WMT-14.

The paper uses WMT-14 English-German (4.5 million pairs) and Transformer base of
width 512. We use Multi30k English-German (29,000 captions, 1,000 to test) and a
model of width 192. The scale differs, so compare how BLEU falls with the width
(a half and a quarter of the model's), and not its level. p is sacreBLEU's,
about half of a two-sided one.
"""

from experiments import metric
from experiments import table as tables

DIM = 192  # of the model, as wide as MHA's keys of all heads
ARMS = {  # arm: (attention, key width)
  'mha': ('concatenate', 192),
  'mha-96': ('concatenate', 96),
  'mha-48': ('concatenate', 48),
  'collab-96': ('collaborative', 96),
  'collab-48': ('collaborative', 48),
}
PAPER = {  # published BLEU on WMT-14, by width
  'concatenate': {512: 27.40, 256: 27.10, 128: 26.89, 64: 26.77},
  'collaborative': {512: 27.58, 256: 27.41, 128: 27.40, 64: 27.31},
}


def table() -> tables.Table:
  found = tables.measure(['translation'], metric.BLEU, ARMS, ARMS['mha'])
  rows = [
    {
      'attention': name,
      'key width': str(width),
      'of the model': f'{width / DIM:g}',
    }
    | tables.cells(found.get((name, width)), metric.BLEU, 'BLEU')
    | {'published, same share': f'{PAPER[name][512 * width // DIM]:.2f}'}
    for name, width in ARMS.values()
  ]

  def draw(figure):
    axis = figure.subplots()
    for i, name in enumerate(PAPER):
      # The offset keeps intervals from covering each other.
      aside = 1.02 if name == 'concatenate' else 0.98
      ours = {
        width / DIM * aside: x
        for (kind, width), x in tables.differences(found).items()
        if kind == name
      }
      style = dict(color=f'C{i}', capsize=4, label=f'{name}, ours, Multi30k')
      tables.points(axis, ours, 'y', **style)
      share = [width / 512 for width in PAPER[name]]
      less = [x - PAPER['concatenate'][512] for x in PAPER[name].values()]
      label = f'{name}, published, WMT-14'
      axis.plot(share, less, 's--', color=f'C{i}', label=label, alpha=0.6)
    axis.axhline(0, color='#888888', lw=1)
    axis.set(xlabel='key width of all heads, share of the model')
    axis.set(ylabel='BLEU less that of full width')
    axis.set_xscale('log', base=2)
    axis.xaxis.set_major_formatter('{x:g}')
    tables.legend(axis)
    tables.tidy(axis)

  text = __doc__ + tables.notes([found])
  return tables.Table('BLEU against key width', text, rows, draw)
