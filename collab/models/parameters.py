# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, which are matrices, and how deep they are, by name.

Optimisers ask here. Nothing outside of collab.models looks into the names of
parameters.
"""

import re
from typing import Any

import jax
import optax

INPUTS = ('embed', 'positions', 'types', 'patch', 'class')  # below layer 0


def decays(params: Any) -> Any:
  """True where weights decay: rank >= 2, and not a bias or scale by name.

  The name decides besides the rank, because the bias of a head projection is
  [H, K] and a norm's scale is [layers, D] when layers are scanned.
  """

  def decays(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return x.ndim >= 2 and not ('bias' in name or 'scale' in name)

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params: Any) -> Any:
  """Which parameters Muon takes as matrices, and which axes are their inputs.

  These are the kernels of layers: [D, H, K] is [D, H K], and out/kernel
  [H, V, D] is [H V, D]. Embeddings, heads, biases and others are Adam's: None.
  """

  def axes(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if _layer(name) < 0 or not name.endswith('kernel'):
      return None
    inputs = x.ndim - 1 if name.endswith('out/kernel') else 1
    return optax.contrib.MuonDimensionNumbers(
      tuple(range(inputs)), tuple(range(inputs, x.ndim))
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def layer_rates(params: Any, decay: float) -> Any:
  """Factors of the learning rate by layer: decay^(n + 1 - depth), n layers.

  Depth is 0 for the input (see `INPUTS`), i + 1 for layer i, and n + 1 after
  the layers. So a new head learns at the full rate, and the first layers of a
  pre-trained model change least (Clark et al., 2020, ELECTRA).

  Returns:
    A tree like params, of floats.
  """
  names = jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'),
    params,
  )
  n = 1 + max(map(_layer, jax.tree.leaves(names)))

  def depth(name):
    if (layer := _layer(name)) >= 0:
      return layer + 1
    return 0 if name.startswith(INPUTS) else n + 1

  return jax.tree.map(lambda name: decay ** (n + 1 - depth(name)), names)


def _layer(name):
  """The i of .../layer_i/..., or -1."""
  found = re.search(r'layer_(\d+)/', name)
  return int(found[1]) if found else -1
