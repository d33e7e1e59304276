# SPDX-License-Identifier: Apache-2.0
"""What heads have in common: 2006.16362, figure 1.

The table has the number of components that hold 90, 95 and 99 % of the energy:
of one head's Wq_h Wk_hᵀ (the mean over heads), and of the projections stacked
over heads, Wq Wkᵀ. Dotted lines and numbers in brackets are those of Gaussian
weights of the same shape. The paper draws BERT-base. This is all-MiniLM-L6-v2
with 6 layers and 12 heads of 32, so the scale differs.
"""

from matplotlib import colormaps
import numpy as np

from collab.analysis import spectrum
from collab.io import json_text
from experiments import redundancy, study
from experiments import table as tables

SHARES = 0.9, 0.95, 0.99
TITLES = dict(
  weights='the weights', inputs='the weights on inputs of 512 captions'
)
STYLES = {
  'one head': dict(lw=2),
  'all heads': dict(lw=1),
  'Gaussian': dict(ls=':'),
}


def table() -> tables.Table:
  kept = json_text.read_object(study.RESULTS / redundancy.RESULTS, energy=dict)
  rows = [
    {
      'energy of': TITLES[kind],
      'layer': layer,
      'one head': _needed(curves['head'], curves['gaussian_head']),
      'of': str(len(curves['head'])),
      'all heads': _needed(curves['product'], curves['gaussian_product']),
      'of all': str(len(curves['product'])),
    }
    for kind, layers in kept['energy'].items()
    for layer, curves in layers.items()
  ]

  def draw(figure):
    for axis, (kind, layers) in zip(
      figure.subplots(1, 2), kept['energy'].items(), strict=True
    ):
      colours = colormaps['viridis'](np.linspace(0, 0.9, len(layers)))
      for colour, (layer, curves) in zip(colours, layers.items(), strict=True):
        for name, width in (('head', 2), ('product', 1)):
          y, other = curves[name], curves[f'gaussian_{name}']
          x = range(1, len(y) + 1)
          label = layer if name == 'head' else None
          axis.plot(x, y, color=colour, lw=width, label=label)
          axis.plot(x, other, ':', color='#888888', lw=width)
      axis.set_xscale('log')
      axis.xaxis.set_major_formatter('{x:g}')
      axis.set(xlabel='components', ylim=(0, 1.02), title=TITLES[kind])
      tables.tidy(axis)
    for label, style in STYLES.items():
      axis.plot([], [], color='#888888', label=label, **style)
    tables.legend(axis, fontsize=8)

  return tables.Table('What heads have in common', __doc__, rows, draw)


def _needed(own, other):
  own, other = (
    ', '.join(str(spectrum.needed(curve, share)) for share in SHARES)
    for curve in (own, other)
  )
  return f'{own} ({other})'
