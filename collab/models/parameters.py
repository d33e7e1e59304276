# SPDX-License-Identifier: Apache-2.0
"""Says by name which parameters decay, which are matrices, and their depth.

Optimisers use these functions. No code outside of collab.models depends on the
names of parameters. Of layers that are stacked (stacked.py) they say what they
say of each layer.
"""

import re
from typing import Any

import jax
import numpy as np
import optax

from collab.models import stacked

INPUTS = ('embed', 'positions', 'types', 'patch', 'class')  # at depth 0


def decays(params: Any) -> Any:
  """Says which weights decay: rank >= 2, and not a bias or scale by name.

  The rank does not suffice: the bias of a head projection is [H, K].
  """

  def decays(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    rank = x.ndim - stacked.is_stacked(path)
    return rank >= 2 and not ('bias' in name or 'scale' in name)

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params: Any) -> Any:
  """Says which parameters Muon takes as matrices, and which axes are inputs.

  These are the kernels of layers: [D, H, K] is the matrix [D, H K], and
  out/kernel [H, V, D] is [H V, D]. For embeddings, heads, biases and others the
  value is None; Adam updates them.
  """

  def axes(path, x):
    name, first = _name(path), int(stacked.is_stacked(path))
    if not (first or _layer(name) >= 0) or not name.endswith('kernel'):
      return None
    inputs = x.ndim - 1 if name.endswith('out/kernel') else first + 1
    return optax.contrib.MuonDimensionNumbers(
      tuple(range(first, inputs)), tuple(range(inputs, x.ndim))
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def layer_rates(params: Any, decay: float) -> Any:
  """Returns learning-rate factors by layer: decay^(n + 1 - depth), n layers.

  The depth is 0 for the input (see `INPUTS`), i + 1 for layer i, and n + 1
  after the layers. So a new head learns at the full rate, and the first layers
  of a pre-trained model change least (Clark et al., 2020, ELECTRA).

  Returns:
    A tree like params, of floats; of stacked layers, of [n, 1, ...].
  """
  named = jax.tree_util.tree_leaves_with_path(params)
  n = max(
    len(x) if stacked.is_stacked(path) else _layer(_name(path)) + 1
    for path, x in named
  )
  rates = [decay ** (n + 1 - depth) for depth in range(n + 2)]

  def rate(path, x):
    name = _name(path)
    if stacked.is_stacked(path):
      each = np.array(rates[1 : len(x) + 1], x.dtype)
      return each.reshape(-1, *[1] * (x.ndim - 1))
    if (layer := _layer(name)) >= 0:
      return rates[layer + 1]
    return rates[0 if name.startswith(INPUTS) else -1]

  return jax.tree_util.tree_map_with_path(rate, params)


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _layer(name):
  """Returns the i in .../layer_i/..., or -1."""
  found = re.search(r'layer_(\d+)/', name)
  return int(found[1]) if found else -1
