# SPDX-License-Identifier: Apache-2.0
"""A key bias and a mask as further features of queries and keys.

A fused kernel computes q . k and takes no bias but an array of queries x keys.
A further feature of queries and keys adds the product of its two values to each
score, and costs memory linear in the length:

                       of a query                of a key
  key_bias             1 for its own head        the bias of each of its heads
  key_valid            -MASK                     0 if valid, else MASK
  a bit of a segment   (b, 1 - b) * -MASK        (1 - c, c) * MASK

Each segment of a row has a number. Each bit of the number makes two features,
which add 0 if query and key have the same bit (b = c), and -MASK^2 if not. So
scores within a segment are exact, whatever their size. A row without keys gets
-MASK^2 from every key, and a wrong value: `alive` tells which rows these are.

Axes: B batch, T queries, S keys, H heads, G groups of heads with a key and a
value of their own.
"""

import math

import jax
import jax.numpy as jnp

from collab.attention.masks import Mask

# float16 ends at 65504, so that MASK^2 needs two factors. Beside any score that
# is larger by 10^9 a weight is 0.
MASK = 2.0**15


def append(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Appends the features, and repeats heads until a fused kernel takes them.

  Args:
    q, k, v, key_bias: see the module kernels; the bias has the dtype of q.
    mask: of which `causal` is ignored; without dense and q_positions.

  Returns:
    q [B, T, H', K'], k [B, S, G, K'], v [B, S, G, V], where G divides H', and
    H' is less than H if all heads of a group are the same.
  """
  G = math.lcm(k.shape[2], v.shape[2])
  H = math.lcm(q.shape[2], G) if key_bias is None else key_bias.shape[2]
  q, k, v = (
    jnp.repeat(x, n // x.shape[2], 2) for x, n in ((q, H), (k, G), (v, G))
  )
  (B, T), S = q.shape[:2], k.shape[1]
  qs, ks = [q], [k]

  def add(of_query, of_key):
    """Adds features [B|1, T|1, H|1, n] and [B|1, S|1, G|1, n]."""
    n = of_query.shape[3]
    qs.append(jnp.broadcast_to(of_query, (B, T, H, n)).astype(q.dtype))
    ks.append(jnp.broadcast_to(of_key, (B, S, G, n)).astype(q.dtype))

  if key_bias is not None:
    own = jnp.tile(jnp.eye(H // G), (G, 1))  # the place of a head in its group
    # Other heads multiply it by 0, so it must be finite.
    most = jnp.finfo(q.dtype).max / 4
    bias = jnp.clip(key_bias, -most, most)
    add(own[None, None], bias.reshape(B, S, G, H // G))
  if mask is not None and mask.key_valid is not None:
    invalid = jnp.where(mask.key_valid, 0.0, MASK)
    add(jnp.full((1, 1, 1, 1), -MASK), invalid[:, :, None, None])
  if mask is not None and mask.q_segments is not None:
    of_query, of_key, _ = numbered(mask)
    bits = jnp.arange(max(1, (S - 1).bit_length()))[None, None, None]
    b = of_query[:, :, None, None] >> bits & 1
    c = of_key[:, :, None, None] >> bits & 1
    add(
      jnp.concatenate([b, 1 - b], -1) * -MASK,
      jnp.concatenate([1 - c, c], -1) * MASK,
    )
  return jnp.concatenate(qs, -1), jnp.concatenate(ks, -1), v


def alive(mask: Mask | None, T: int, S: int) -> jax.Array:
  """Tells which queries see a key, without an array of size T x S.

  Args:
    mask: without dense and q_positions.
    T, S: numbers of queries and keys, at least one.

  Returns:
    bool [B|1, T|1].
  """
  if mask is None or (mask.key_valid is None and mask.q_segments is None):
    return jnp.ones((1, 1), bool)
  last = jnp.arange(T)[None] if mask.causal else S - 1
  places, never = jnp.arange(S)[None], max(T, S)
  if mask.key_valid is not None:
    places = jnp.where(mask.key_valid, places, never)
  if mask.q_segments is None:
    return jnp.min(places, 1, keepdims=True) <= last
  of_query, of_key, found = numbered(mask)
  B = max(len(of_query), len(places))
  of_query, of_key, places = (
    jnp.broadcast_to(x, (B, x.shape[1])) for x in (of_query, of_key, places)
  )
  rows = jnp.arange(B)[:, None]
  first = jnp.full((B, S), never).at[rows, of_key].min(places)
  return found & (first[rows, of_query] <= last)


def numbered(mask: Mask) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Numbers the segments of each row from 0 to S - 1.

  Returns:
    Numbers of queries, int [B|1, T], and of keys, int [B|1, S]; and whether any
    key has the query's segment, bool [B|1, T]. If none has, the query's number
    is that of another segment.
  """
  q, kv = mask.q_segments, mask.kv_segments
  B = max(len(q), len(kv))
  q, kv = (jnp.broadcast_to(x, (B, x.shape[1])) for x in (q, kv))
  ordered = jnp.sort(kv, -1)
  of_query, of_key = (
    jax.vmap(jnp.searchsorted)(ordered, x).clip(max=kv.shape[1] - 1)
    for x in (q, kv)
  )
  found = jnp.take_along_axis(ordered, of_query, 1) == q
  return of_query, of_key, found
