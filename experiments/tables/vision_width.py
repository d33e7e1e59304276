# SPDX-License-Identifier: Apache-2.0
"""Vision transformers against key width: 2006.16362, section 4.3.

The paper uses ImageNet and DeiT-B; its accuracies were not recovered, so there
is no column of them. We use Fashion-MNIST (60,000 images of 28 pixels, 10,000
to test) and 4 layers of width 128, trained for 5 epochs. The scale differs.
"""

from experiments import metric
from experiments import table as tables

ARMS = {  # arm: (attention, key width)
  'mha': ('concatenate', '128'),
  'collab-64': ('collaborative', '64'),
  'collab-32': ('collaborative', '32'),
  'mhe_add': ('MHE-ADD', '32'),
  'mhe_mul': ('MHE-MUL', '32'),
}


def table() -> tables.Table:
  found = tables.measure(['vision'], metric.TOP1, ARMS, ARMS['mha'])
  rows = [
    dict(zip(('attention', 'key width'), arm, strict=True))
    | tables.cells(found.get(arm), metric.TOP1, metric.TOP1.title)
    for arm in ARMS.values()
  ]

  def draw(figure):
    axis = figure.subplots()
    scores = {', '.join(arm): x for arm, x in tables.scores(found).items()}
    tables.bars(axis, [*map(', '.join, ARMS.values())], scores)
    axis.set_xlabel(metric.TOP1.title)

  text = __doc__ + tables.notes([found])
  title = 'Vision transformers against key width'
  return tables.Table(title, text, rows, draw)
