# SPDX-License-Identifier: Apache-2.0
"""Parameters of a scan: stacked in memory, layer by layer on disk.

A Stack's layer_0, layer_1, ... become one subtree `layer_*` whose leaves have a
leading axis for the layer. This applies to parameters and to what resembles
them: moments, averages, shapes and shardings. Layers that are shared, or alone,
stay as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

LAYERS = 'layer_*'  # no attribute's name, so no module of a model has it


def stack(tree: Any, join: Callable = jnp.stack) -> Any:
  """Stacks the layers in a tree; `join` makes one leaf of a list of leaves."""

  def one(x):
    if not _has(x, 'layer_1'):
      return x
    names = [f'layer_{i}' for i in range(len(x)) if f'layer_{i}' in x]
    rest = {name: x[name] for name in x.keys() - set(names)}
    layers = jax.tree.map(lambda *x: join(x), *(x[name] for name in names))
    return {LAYERS: layers, **rest}

  return jax.tree.map(one, tree, is_leaf=lambda x: _has(x, 'layer_1'))


def unstack(tree: Any) -> Any:
  """Inverts `stack`, of arrays."""

  def one(x):
    if not _has(x, LAYERS):
      return x
    rest = {name: x[name] for name in x.keys() - {LAYERS}}
    n = len(jax.tree.leaves(x[LAYERS])[0])
    layer = lambda i: jax.tree.map(lambda x: x[i], x[LAYERS])
    return rest | {f'layer_{i}': layer(i) for i in range(n)}

  return jax.tree.map(one, tree, is_leaf=lambda x: _has(x, LAYERS))


def is_stacked(path: tuple) -> bool:
  """Whether a leaf at this path of jax.tree_util has an axis for the layer."""
  return any(getattr(key, 'key', '') == LAYERS for key in path)


def _has(x, name):
  return isinstance(x, Mapping) and name in x
