# SPDX-License-Identifier: Apache-2.0
"""Says by name which parameters decay, which are matrices, and their depth.

Optimisers use these functions. No code outside of collab.models depends on the
names of parameters.
"""

import re
from typing import Any

import jax
import optax

INPUTS = ('embed', 'positions', 'types', 'patch', 'class')  # at depth 0


def decays(params: Any) -> Any:
  """Says which weights decay: rank >= 2, and not a bias or scale by name.

  The rank does not suffice: the bias of a head projection is [H, K], and a
  norm's scale is [layers, D] when layers are scanned.
  """

  def decays(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return x.ndim >= 2 and not ('bias' in name or 'scale' in name)

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params: Any) -> Any:
  """Says which parameters Muon takes as matrices, and which axes are inputs.

  These are the kernels of layers: [D, H, K] is the matrix [D, H K], and
  out/kernel [H, V, D] is [H V, D]. For embeddings, heads, biases and others the
  value is None; Adam updates them.
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
  """Returns learning-rate factors by layer: decay^(n + 1 - depth), n layers.

  The depth is 0 for the input (see `INPUTS`), i + 1 for layer i, and n + 1
  after the layers. So a new head learns at the full rate, and the first layers
  of a pre-trained model change least (Clark et al., 2020, ELECTRA).

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
  """Returns the i in .../layer_i/..., or -1."""
  found = re.search(r'layer_(\d+)/', name)
  return int(found[1]) if found else -1
