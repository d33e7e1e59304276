# SPDX-License-Identifier: Apache-2.0
"""The decoding cache: the keys and values of a layer, stored unexpanded.

The cache stores whatever `heads` returned with an S axis, once. Nothing is
expanded to all heads and no key is stored twice, so the cache is as small as
the variant allows (`cache_size` scalars a token). The head axis comes before
the places, as in the kernels, so that a step reads the keys without a copy.

The cache of a sliding window does not grow: it has as many places as the window
and token number i is at place i modulo their number. One token overwrites the
oldest, and attends to all that is there. Of several tokens the first still need
what the last overwrite: they attend to the old keys, in order, and the new
ones, and are written afterwards.
"""

from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from collab.attention.heads import Heads, Positions
from collab.attention.masks import Mask

_SPOILT = -(2**30)  # the index of a window's row that took impossible lengths


@struct.dataclass
class Cache:
  """The keys and values of B rows with L places each.

  Attributes:
    index: int32 [B], number of tokens in each row; more than L once the row has
      overflowed, or under a window, which has no end, negative.
    k: [B, Gk, L, K].
    v: [B, Gv, L, V], or None where the values are the keys.
    key_bias: [B, H, L] or None.
    positions: int32 [B, L] or None, positions of the keys where Attention.read
      needs them. They are numbers of the caller's, and no part of the heads:
      `kept` and cache_size leave them out.
    widths: widths of inputs_q, inputs_k and inputs_v, if init had inputs_k.
    memory: whether this is the cache of a cross attention's memory, to which
      nothing is appended.
    window: whether the L places are those of a sliding window.
  """

  index: jax.Array
  k: jax.Array
  v: jax.Array | None
  key_bias: jax.Array | None
  positions: jax.Array | None = None
  widths: tuple | None = struct.field(pytree_node=False, default=None)
  memory: bool = struct.field(pytree_node=False, default=False)
  window: bool = struct.field(pytree_node=False, default=False)

  @property
  def length(self) -> int:
    """L, the number of places in a row."""
    return self.k.shape[2]

  @property
  def overflowed(self) -> jax.Array:
    """bool [B]: whether more was appended to the row than fits."""
    return self.index < 0 if self.window else self.index > self.length

  @property
  def kept(self) -> tuple:
    """(k, v, key_bias)."""
    return self.k, self.v, self.key_bias

  def restrict(self, mask: Mask | None, start: int | jax.Array, T: int) -> Mask:
    """Makes a Mask that also hides the places beyond what the cache holds.

    Args:
      mask: the user's mask, or None.
      start: place of the first query in its row, from `begin`.
      T: number of queries.
    """
    if self.window:
      return self._restrict_window(start, T)
    mask = mask or Mask()
    if self.memory:
      held = jnp.arange(self.length)[None] < self.index[:, None]
      valid = held if mask.key_valid is None else held & mask.key_valid
      return mask.replace(key_valid=valid)
    if mask.q_positions is not None or mask.offset:
      raise ValueError(
        'The cache decides q_positions and offset; leave them out.'
      )
    places = start + jnp.arange(T)[None]
    return mask.replace(causal=True, q_positions=places)

  def _restrict_window(self, start, T):
    """Makes the Mask of what `extend` returned for this cache."""
    L = self.length
    if T <= 1:
      return Mask(key_valid=jnp.arange(L)[None] < self.index[:, None])
    held = jnp.arange(L + T)[None] >= L - start
    return Mask(causal=True, window=L, offset=L, key_valid=held)


def begin(
  cache: Cache | None, B: int, T: int, S: int | None, lengths: Any, mask: Any
) -> int | jax.Array:
  """Checks a call with B rows of T queries, before anything is computed.

  Args:
    cache: the layer's cache, or None.
    B, T: sizes of inputs_q.
    S: length of inputs_k, or None without inputs_k.
    lengths: lengths of the call, or None.
    mask: mask of the call, or None.

  Returns:
    The place of the first query in its row: 0, or int32 [B, 1].

  Raises:
    ValueError: the call lacks an argument, or has a forbidden one.
  """
  if cache is None:
    if lengths is not None:
      raise ValueError('lengths is for a layer that decodes from its cache.')
    return 0
  if cache.window and mask is not None:
    parts = jax.tree.leaves(mask)
    if parts or mask.offset or mask.window not in (None, cache.length):
      raise ValueError(
        f'The cache holds a window of {cache.length} keys: the mask of a call '
        'can be Mask(causal=True) with that window, or None.'
      )
  if (rows := cache.index.shape[0]) != B:
    raise ValueError(f'The cache has {rows} rows, the inputs {B}.')
  if cache.memory:
    if S is not None or lengths is not None:
      raise ValueError(
        'A layer that has a memory takes inputs_q only; inputs_k, inputs_v '
        'and their lengths go to prefill_memory, once.'
      )
    return 0
  if S is None and cache.widths:
    raise ValueError(
      'The cache was made with inputs_k and has no memory yet. Cross '
      'attention: call prefill_memory first; self-attention: pass inputs_k '
      'in every call, or in none.'
    )
  if S is not None and T not in (0, S):
    raise ValueError(
      f'Decoding adds a key for each query: got {S} tokens of inputs_k for '
      f'{T} of inputs_q. The memory of cross attention goes to '
      'prefill_memory, once.'
    )
  return cache.index[:, None]


def empty(
  h: Heads,
  positions: bool,
  widths: tuple | None = None,
  window: int | None = None,
) -> Cache:
  """Makes an empty cache with as many places as the heads have keys.

  Args:
    h: Heads.
    positions: whether it keeps positions.
    widths: widths of the inputs, see Cache.
    window: the places that are enough, or None.
  """
  if window is not None and widths is not None:
    raise ValueError(
      'A cache of a window is made by init without inputs_k; expected a mask '
      'without window, or inputs_q alone.'
    )
  L = h.k.shape[1]
  rolls = window is not None and window < L
  if rolls:
    L = window
  parts = jax.tree.map(
    lambda x: jnp.zeros_like(_swap(x)[:, :, :L]), (h.k, h.v, h.key_bias)
  )
  B = h.k.shape[0]
  index = jnp.zeros(B, jnp.int32)
  places = jnp.zeros((B, L), jnp.int32) if positions else None
  return Cache(index, *parts, places, widths, window=rolls)


def emptied(cache: Cache | None, S: int) -> Cache:
  """Empties the cache, for a memory of S tokens.

  Raises:
    ValueError: there is no cache for cross attention, or it is too short.
  """
  if cache is None or cache.widths is None:
    raise ValueError(
      'prefill_memory needs decode=True and a cache made by init with '
      'inputs_k (cross attention).'
    )
  if cache.length < S:
    raise ValueError(
      f'A memory of {S} tokens does not fit the cache of {cache.length}.'
    )
  return cache.replace(index=jnp.zeros_like(cache.index), memory=False)


def extend(
  cache: Cache, h: Heads, at: Positions, lengths: jax.Array | None = None
) -> tuple[Cache, Heads, Positions]:
  """Appends the keys of h to every row, each row at its own index.

  Args:
    cache: a Cache of L places; nothing is appended to a memory.
    h: Heads of n tokens.
    at: Positions of the tokens.
    lengths: int [B], how many of the n tokens are real; all by default. The
      next call overwrites the others.

  Returns:
    The new Cache, and what its queries may attend to: h with the keys and
    values of the cache, or for several tokens and a window with the L old ones
    and the new; and their positions, None if the cache has none. Tokens beyond
    L are dropped, which `overflowed` shows; a window drops the oldest instead.
    A length outside of 0 to n also makes its row overflow.
  """
  new = cache if cache.memory else _append(cache, h, at.keys, lengths)
  B, n = h.k.shape[:2]
  if not cache.window or n == 1:
    k, v, key_bias = jax.tree.map(_swap, new.kept)
    h = h._replace(k=k, v=v, key_bias=key_bias)
    return new, h, at._replace(keys=new.positions)
  L = cache.length
  order = (cache.index[:, None] + jnp.arange(L)[None]) % L

  def join(old, added):
    by = order.reshape(B, 1, L, *[1] * (old.ndim - 3))
    old = _swap(jnp.take_along_axis(old, by, 2))
    return jnp.concatenate([old, added.astype(old.dtype)], 1)

  k, v, key_bias = jax.tree.map(join, cache.kept, (h.k, h.v, h.key_bias))
  keys = cache.positions
  if keys is not None:
    added = jnp.broadcast_to(at.keys, (B, n)).astype(keys.dtype)
    keys = jnp.concatenate([jnp.take_along_axis(keys, order, 1), added], 1)
  h = h._replace(k=k, v=v, key_bias=key_bias)
  return new, h, at._replace(keys=keys)


def _append(cache, h, positions, lengths):
  """Returns the cache with the keys of h, as in `extend`."""
  B, n = h.k.shape[:2]
  added = jnp.full(B, n)
  if lengths is not None:
    possible = (lengths >= 0) & (lengths <= n)
    wrong = _SPOILT if cache.window else cache.length + 1
    added = jnp.where(possible, lengths, wrong)
  rows = jnp.arange(B)[:, None]
  places = cache.index[:, None] + jnp.arange(n)[None]
  if cache.window:
    # The places of tokens that are not real still hold what the next ones need.
    last = added[:, None] - jnp.arange(n)[None]
    stay = (last > 0) & (last <= cache.length)
    places = jnp.where(stay, places % cache.length, cache.length)

  def write(old, new):
    new = new.astype(old.dtype)
    if B == n == 1:  # a scatter of one token would copy the whole cache
      place = cache.index[0] % cache.length if cache.window else cache.index[0]
      put = lambda: lax.dynamic_update_slice_in_dim(old, _swap(new), place, 2)
      # If the token is not real, no later one sees what it overwrites here.
      if cache.window:
        return put()
      return lax.cond(cache.index[0] < cache.length, put, lambda: old)
    # A place beyond the end is dropped; clamping would overwrite the last.
    return old.at[rows, :, places].set(new, mode='drop')

  parts = jax.tree.map(write, cache.kept, (h.k, h.v, h.key_bias))
  at = cache.positions
  if at is not None:
    new = jnp.broadcast_to(positions, (B, n)).astype(at.dtype)
    at = at.at[rows, places].set(new, mode='drop')
  index = cache.index + added.astype(jnp.int32)
  if cache.window:  # a row that is spoilt remains so
    index = jnp.where((cache.index < 0) | (added < 0), _SPOILT, index)
  return Cache(index, *parts, at, cache.widths, window=cache.window)


def _swap(x):
  """Swaps [B, L, G, *] <-> [B, G, L, *]."""
  return x.swapaxes(1, 2)


def cache_take(cache: Any, rows: jax.Array) -> Any:
  """Reorders the rows of a cache collection, for beam search.

  Args:
    cache: a 'cache' collection (any pytree of arrays [B, ...]).
    rows: int [B'], the old row that each new row continues.
  """
  return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), cache)
