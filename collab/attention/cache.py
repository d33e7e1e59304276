# SPDX-License-Identifier: Apache-2.0
"""What decoding keeps: whatever `heads` returned that has an S axis, once.

Nothing is expanded to all heads and no key is kept twice, so the cache is as
small as the variant allows (`cache_size` scalars a token). Heads come before
places, as the kernels have them: a step reads the keys where they lie.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp


@struct.dataclass
class Cache:
  """The keys and values of L places for each of B rows.

  Attributes:
    index: int32 [B], how many places of the row are taken; more than L once a
      row has overflowed.
    k: [B, Gk, L, K].
    v: [B, Gv, L, V], or None where the values are the keys.
    key_bias: [B, H, L] or None.
    widths: of inputs_q, inputs_k and inputs_v, if init was given inputs_k.
    memory: whether what it holds is the memory of cross attention, to which
      nothing is added.
  """

  index: jax.Array
  k: jax.Array
  v: jax.Array | None
  key_bias: jax.Array | None
  widths: tuple | None = struct.field(pytree_node=False, default=None)
  memory: bool = struct.field(pytree_node=False, default=False)

  @property
  def length(self):
    """L."""
    return self.k.shape[2]

  @property
  def overflowed(self):
    """bool [B]: more was appended to the row than fits."""
    return self.index > self.length

  def heads(self, h):
    """The Heads h with the cache's keys in the place of its own."""
    parts = jax.tree.map(_swap, (self.k, self.v, self.key_bias))
    return h._replace(**dict(zip(('k', 'v', 'key_bias'), parts, strict=True)))


def empty(h, widths=None):
  """A cache with as many places as the Heads h have keys."""
  parts = jax.tree.map(
    lambda x: jnp.zeros_like(_swap(x)), (h.k, h.v, h.key_bias)
  )
  return Cache(jnp.zeros(h.k.shape[0], jnp.int32), *parts, widths)


def append(cache, h, lengths=None):
  """Adds the keys of h to every row, each row at its own index.

  Args:
    cache: Cache of L places.
    h: Heads of n tokens.
    lengths: int [B], how many of the n are real, default all; the next call
      writes over the rest.

  Returns:
    The new Cache. Tokens beyond L are dropped and show in `overflowed`, as do
    lengths that are not 0 to n: their rows are lost.
  """
  B, n = h.k.shape[:2]
  added = jnp.full(B, n)
  if lengths is not None:
    possible = (lengths >= 0) & (lengths <= n)
    added = jnp.where(possible, lengths, cache.length + 1)
  rows = jnp.arange(B)[:, None]
  places = cache.index[:, None] + jnp.arange(n)[None]

  def write(old, new):
    new = new.astype(old.dtype)
    if B == n == 1:  # a scatter of one token would copy all that is held
      put = lambda: lax.dynamic_update_slice_in_dim(
        old, _swap(new), cache.index[0], 2
      )
      return lax.cond(cache.index[0] < cache.length, put, lambda: old)
    # A place beyond the end is dropped, never clamped onto the last one.
    return old.at[rows, :, places].set(new, mode='drop')

  old = cache.k, cache.v, cache.key_bias
  parts = jax.tree.map(write, old, (h.k, h.v, h.key_bias))
  return Cache(cache.index + added.astype(jnp.int32), *parts, cache.widths)


def _swap(x):
  """[B, L, G, *] <-> [B, G, L, *]."""
  return x.swapaxes(1, 2)


def cache_take(cache, rows):
  """The cache collection with its rows reordered, for beam search.

  Args:
    cache: a 'cache' collection (any pytree of arrays [B, ...]).
    rows: int [B'], which row each new row continues.
  """
  return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), cache)
