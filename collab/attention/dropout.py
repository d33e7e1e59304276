# SPDX-License-Identifier: Apache-2.0
"""Draws dropout by the row of the whole batch, whichever device holds it."""

import jax
from jax import lax
import jax.numpy as jnp

from collab.attention.devices import TENSOR


def keep_rows(key: jax.Array, rate: float, shape: tuple) -> jax.Array:
  """Draws what is kept: bool of a shape [rows, ...], True at rate 1 - rate.

  Each row has a random key of its own, from its number in the whole batch. In
  jax.shard_map a device has a part of the rows, and its part of the pattern.
  Devices that split heads have the same rows.
  """
  manual = jax.sharding.get_abstract_mesh().manual_axes
  axes = tuple(axis for axis in manual if axis != TENSOR)
  first = lax.axis_index(axes) * shape[0] if axes else 0
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    key, first + jnp.arange(shape[0])
  )
  draw = lambda key: jax.random.bernoulli(key, 1 - rate, shape[1:])
  return jax.vmap(draw)(keys)
