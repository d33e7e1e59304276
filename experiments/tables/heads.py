# SPDX-License-Identifier: Apache-2.0
"""Parameters and memory against the number of heads: 2310.07911, the figure.

One layer without biases; each head is 64 wide, so more of them make a
wider model: parameters, and scalars that decoding keeps a token. Collaborative
attention has half the key width and a content bias, MLA a latent of a sixth.
The paper draws parameters up to 16 heads; these are exact.
"""

import numpy as np

from collab import attention
from collab.accounting import family
from experiments import table as tables

WIDTH = 64
HEADS = 1, 2, 4, 8, 12, 16, 32, 64, 128  # the paper stops at 16
NAMES = 'mha', 'collab', 'skv', 'mqa', 'el', 'mla', 'sha', 'mhe_add', 'mhe_mul'
FIELDS = {
  'collab': lambda D: dict(shared_dim=D // 2),
  'mla': lambda D: dict(latent_dim=max(1, D // 6)),
}


def sizes(name: str, H: int) -> np.ndarray:
  """Returns a layer's parameters, and the scalars a token in its cache."""
  D = WIDTH * H
  fields = FIELDS[name](D) if name in FIELDS else {}
  layer = attention.build(name, num_heads=H, use_bias=False, **fields)
  return np.array([layer.count(D), layer.cache_size(D)])


def table() -> tables.Table:
  found = {name: np.stack([sizes(name, H) for H in HEADS]) for name in NAMES}
  shares = {name: x / found['mha'] for name, x in found.items()}
  rows = [
    {
      'attention': name,
      'heads': str(H),
      'parameters': f'{found[name][i, 0]:,}',
      "of MHA's": f'{shares[name][i, 0]:.3f}',
      'cache': f'{found[name][i, 1]:,}',
      "of MHA's cache": f'{shares[name][i, 1]:.3f}',
    }
    for name in NAMES
    for i, H in enumerate(HEADS)
  ]

  def draw(figure):
    axes = figure.subplots(1, 2)
    for column, title in enumerate(('parameters', 'cache, scalars a token')):
      axis = axes[column]
      curves = {}
      for name, values in shares.items():
        style = dict(color=family.colour(name))
        (curves[name],) = axis.plot(HEADS, values[:, column], **style)
      axis.set(xlabel='heads of 64', title=f"{title}: share of MHA's")
      axis.set_xscale('log', base=2)
      axis.set_yscale('log', base=2)
      axis.yaxis.set_major_formatter('{x:.3g}')
      axis.xaxis.set_major_formatter('{x:g}')
      tables.tidy(axis)
      tables.label_ends(axis, curves)

  title = 'Parameters and memory against heads'
  return tables.Table(title, __doc__, rows, draw)
