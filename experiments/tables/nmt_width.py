# SPDX-License-Identifier: Apache-2.0
"""BLEU against key width: 2006.16362, the figure of WMT-14."""

from experiments import metric
from experiments import table as tables

DIM = 192  # of the model, as wide as MHA's keys of all heads
ARMS = {  # (attention, key width): arm
  ('concatenate', 192): 'mha',
  ('concatenate', 96): 'mha-96',
  ('concatenate', 48): 'mha-48',
  ('collaborative', 96): 'collab-96',
  ('collaborative', 48): 'collab-48',
}
PAPER = {  # of WMT-14, by width
  'concatenate': {512: 27.40, 256: 27.10, 128: 26.89, 64: 26.77},
  'collaborative': {512: 27.58, 256: 27.41, 128: 27.40, 64: 27.31},
}
TEXT = """The paper: WMT-14 English-German, 4.5 million pairs, Transformer base
of width 512. Ours: Multi30k English-German, 29,000 captions, 1,000 to test, a
model of width 192: another scale, so compare how BLEU falls with the width, a
half and a quarter of the model's, and not its level. p is sacreBLEU's, about
half of a two-sided one. """


def table():
  found = tables.measure('translation', metric.BLEU, ARMS.values())
  rows = []
  for (name, width), arm in ARMS.items():
    attention = found[arm].attention if arm in found else None
    rows.append(
      [
        name,
        str(width),
        f'{width / DIM:g}',
        f'{attention:,}' if attention else '',
        *tables.cells(found.get(arm), metric.BLEU),
        f'{PAPER[name][512 * width // DIM]:.2f}',
      ]
    )

  def draw(figure):
    ours, paper = figure.subplots(1, 2)
    for i, name in enumerate(PAPER):
      arms = {width: x for (kind, width), x in ARMS.items() if kind == name}
      arms = {width: found[x] for width, x in arms.items() if x in found}
      tables.curve(ours, arms, name, color=f'C{i}', marker='o')
      x, y = zip(*PAPER[name].items(), strict=True)
      paper.plot(x, y, 'o-', color=f'C{i}', label=name)
    for axis, title in ((ours, 'Multi30k, ours'), (paper, 'WMT-14, published')):
      axis.set(xlabel='key width of all heads', ylabel='BLEU', title=title)
      axis.set_xscale('log', base=2)
      axis.xaxis.set_major_formatter('{x:g}')
      tables.tidy(axis)
    paper.legend()

  columns = ['attention', 'key width', 'of the model', 'in attention', 'seeds']
  columns += ['BLEU', *tables.STATISTICS, 'published, same share']
  text = TEXT.replace('\n', ' ') + tables.notes(found)
  return tables.Table('BLEU against key width', text, columns, rows, draw)
