# SPDX-License-Identifier: Apache-2.0
"""What training has to know of the parameters of any model, by their names.

Which of them decay, which are matrices, and at what depth of the model they
are. Nothing outside of this room looks into a name of a parameter.
"""

import re

import jax
import optax

INPUTS = ('embed', 'positions', 'types', 'patch', 'class')  # below layer 0


def decays(params):
  """True where weights decay: rank >= 2 and no bias or scale by name.

  The name decides besides the rank, because the bias of a head projection is
  [H, K] and a norm's scale is [layers, D] when layers are scanned.
  """

  def decays(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return x.ndim >= 2 and not ('bias' in name or 'scale' in name)

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params):
  """Which parameters Muon takes as matrices, and which axes are their inputs.

  Kernels of layers: [D, H, K] is [D, H K], out/kernel [H, V, D] is [H V, D].
  Embeddings, heads, biases and all else are Adam's (None).
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


def layer_rates(params, decay):
  """Factors of the learning rate a layer: decay^(n + 1 - depth), n layers.

  Depth is 0 for what makes the input (see `INPUTS`), i + 1 for layer i, n + 1
  for what comes after the layers: a new head learns at the full rate, what is
  deep in a pre-trained model moves less (Clark et al., 2020, ELECTRA).

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
