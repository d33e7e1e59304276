# SPDX-License-Identifier: Apache-2.0
"""What do fewer parameters save in time and memory?

The papers count parameters. These are shares of our own MHA, of one
layer (D = 768, 12 heads, float32): parameters; time of forward and backward at
512 and 2,048 tokens; temporary memory of that at 2,048; time of decoding one
token for 32 rows with 2,048 places, and the bytes of its cache. Two CPU cores;
commands, dates and spreads are in [benchmarks](../../benchmarks/README.md).

**Less than the parameters say, and not always.** MHE-MUL has a third of the
parameters, but takes half of the time at 512 tokens and nine tenths at 2,048,
where scores, which each head has of its own, are most of the work; MHE-ADD,
whose heads share their scores, keeps its third. Collaborative attention pays
for fewer parameters with wider scores: with a quarter of the key width it is as
fast as MHA at 512 tokens and slower at 2,048. Memory in training falls by a
fifth at most (but for SHA): it is that of activations, no variant's parameters.
Decoding gains where all heads read one key and value (MQA and MHE: less than a
third of the time); halving the cache (SKV, EL) or a third of it (GQA) gains
nothing here, as each head's products with so few rows bind a CPU before its
memory does. On a GPU or TPU, none of which we had, that balance is another.
"""

import numpy as np

from benchmarks import attention as layers
from benchmarks import protocol
from collab import attention
from collab.io import json_text
from experiments import table as tables

COLUMNS = ['layer', 'parameters', 'time, T=512', 'time, T=2048', 'memory']
COLUMNS += ['time to decode', 'cache']


def table() -> tables.Table:
  """Makes the table of each attention's sizes and times, as shares of MHA's."""
  figures = {
    name: json_text.read_object(
      protocol.RESULTS / f'{name}.json', figures=dict
    )['figures']
    for name in ('attention', 'memory', 'decode')
  }
  short, long = (
    figures['attention'][f'layer, {size}']['forward_backward']
    for size in ('B=4, T=512', 'B=1, T=2048')
  )
  decode = figures['decode']['decode, B=32, S=2048']
  found = {}
  for label, fields in layers.LAYERS.items():
    layer = attention.build(num_heads=layers.H, **fields)
    found[label] = [
      layer.count(layers.D),
      short[label]['ms'],
      long[label]['ms'],
      figures['memory']['2048'][label],
      decode[label]['ms'],
      decode[label]['cache'],
    ]
  shares = {k: np.divide(x, found['mha']) for k, x in found.items()}
  rows = [
    dict(zip(COLUMNS, [label, *map('{:.2f}'.format, values)], strict=True))
    for label, values in shares.items()
  ]

  def draw(figure):
    axis = figure.subplots()
    places = range(len(shares))
    columns = np.transpose([*shares.values()])
    for i, values in enumerate(columns):
      style = dict(color=f'C{i}', label=COLUMNS[i + 1])
      axis.plot(values, places, 'osD^v*'[i], **style)
    tables.label_rows(axis, shares)
    axis.axvline(1, color='#888888', lw=1)
    axis.set(xlabel="share of MHA's", xscale='log')
    axis.xaxis.set_major_formatter('{x:g}')
    tables.legend(axis)

  title = 'What is saved in time and memory'
  return tables.Table(title, __doc__, rows, draw)
