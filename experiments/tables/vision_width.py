# SPDX-License-Identifier: Apache-2.0
"""Vision transformers against key width: 2006.16362, section 4.3."""

from experiments import metric
from experiments import table as tables

ARMS = {  # arm: attention, key width
  'mha': ('concatenate', 128),
  'collab-64': ('collaborative', 64),
  'collab-32': ('collaborative', 32),
  'mhe_add': ('MHE-ADD', 32),
  'mhe_mul': ('MHE-MUL', 32),
}
TEXT = """The paper: ImageNet, DeiT-B; its accuracies were not recovered, so
there is no column of them. Ours: Fashion-MNIST, 60,000 images of 28 pixels,
10,000 to test, 4 layers of width 128, 5 epochs: another scale. """


def table():
  found = tables.measure(['vision'], metric.TOP1, ARMS)
  rows = [
    [
      name,
      str(width),
      f'{found[arm].attention:,}' if arm in found else '',
      *tables.cells(found.get(arm), metric.TOP1),
    ]
    for arm, (name, width) in ARMS.items()
  ]
  labels = {arm: f'{name}, {width}' for arm, (name, width) in ARMS.items()}

  def draw(figure):
    tables.bars(figure.subplots(), found, metric.TOP1, labels)

  columns = ['attention', 'key width', 'in attention', 'seeds']
  columns += [metric.TOP1.title, *tables.STATISTICS]
  text = TEXT + tables.notes(found)
  title = 'Vision transformers against key width'
  return tables.Table(title, text, columns, rows, draw)
