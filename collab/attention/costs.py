# SPDX-License-Identifier: Apache-2.0
"""Counts a layer's parameters and the scalars of its cache, from shapes."""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp


class Costs(NamedTuple):
  """Numbers of parameters, and of scalars that decoding keeps a token."""

  parameters: int
  cache: int


def of_layer(layer: nn.Module, D: int) -> Costs:
  """Computes the Costs of an Attention layer for self-attention at width D."""
  decode = not layer.mixes_tokens
  return _of_layer(layer.clone(parent=None, decode=decode, dropout_rate=0.0), D)


@functools.lru_cache  # a search over widths asks for the same layers again
def _of_layer(layer, D):
  x = jax.ShapeDtypeStruct((1, 1, D), jnp.float32)
  tree = jax.eval_shape(layer.init, jax.random.key(0), x)
  kept = tree['cache']['past'].kept if layer.decode else ()
  parts = tree['params'], kept
  return Costs(*(sum(x.size for x in jax.tree.leaves(part)) for part in parts))
