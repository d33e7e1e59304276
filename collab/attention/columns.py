# SPDX-License-Identifier: Apache-2.0
"""A key bias and a mask as further columns of queries and keys.

A fused kernel computes q . k, causally or not, and takes no other bias without
an array of queries x keys. But a further column of queries and keys adds the
product of its two entries to each score, so

                     a query has           a key has
  key_bias           1 for its head        the bias of each head of its group
  key_valid          1                     0, or MASKED where it is not valid
  segments, a bit    b, 1 - b, times       1 - b, b
                     MASKED

where a segment is told by the bits of its rank among the row's segments: what
differs in no bit gets exactly zero, anything else at most MASKED. A row without
keys gets MASKED from all of them and so a wrong mean, which `alive` finds.

Axes: B batch, T queries, S keys, H heads, G groups of heads with their own key.
"""

import math

import jax
import jax.numpy as jnp

MASKED = -1e30
MASKED_FLOAT16 = -3e4  # float16 ends at 65504; exp(-3e4) is zero, too


def number(call) -> int:
  """Counts the columns that `append` adds to a choice.Call."""
  mask, n = call.mask, 0
  if call.key_bias is not None:
    n += call.H // groups(call.k, call.v)
  if mask is not None and mask.key_valid is not None:
    n += 1
  if mask is not None and mask.q_segments is not None:
    n += 2 * _bits(call.k.shape[1])
  return n


def groups(k, v) -> int:
  """Returns G: keys and values are given to a kernel with as many heads."""
  return math.lcm(k.shape[2], v.shape[2])


def append(q, k, key_bias, mask):
  """Appends the columns of a bias and a mask, in the dtype of q.

  Args:
    q: [B, T, H, K].
    k: [B, S, G, K].
    key_bias: [B, S, H] or None.
    mask: masks.Mask without dense and q_positions, or None.

  Returns:
    q [B, T, H, K'] and k [B, S, G, K'].
  """
  (B, T, H, _), (S, G) = q.shape, k.shape[1:3]
  qs, ks = [q], [k]
  masked = MASKED_FLOAT16 if q.dtype == jnp.float16 else MASKED

  def add(of_query, of_key):
    """Adds columns [B|1, T|1, H|1, n] and [B|1, S|1, G|1, n]."""
    n = of_query.shape[3]
    qs.append(jnp.broadcast_to(of_query, (B, T, H, n)).astype(q.dtype))
    ks.append(jnp.broadcast_to(of_key, (B, S, G, n)).astype(q.dtype))

  if key_bias is not None:
    own = jnp.tile(jnp.eye(H // G), (G, 1))  # head h is h % (H/G)-th of a group
    add(own[None, None], key_bias.reshape(B, S, G, H // G))
  if mask is not None and mask.key_valid is not None:
    bias = jnp.where(mask.key_valid, 0.0, masked)
    add(jnp.ones((1, 1, 1, 1)), bias[:, :, None, None])
  if mask is not None and mask.q_segments is not None:
    of_query, of_key, _ = ranks(mask)
    bits = jnp.arange(_bits(S))[None, None, None]
    b = of_query[:, :, None, None] >> bits & 1
    c = of_key[:, :, None, None] >> bits & 1
    add(
      jnp.concatenate([b, 1 - b], -1) * jnp.float32(masked),
      jnp.concatenate([1 - c, c], -1),
    )
  return jnp.concatenate(qs, -1), jnp.concatenate(ks, -1)


def alive(mask, T: int, S: int) -> jax.Array:
  """Tells which queries see a key, without an array of size T x S.

  Args:
    mask: masks.Mask without dense and q_positions, or None.
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
  of_query, of_key, found = ranks(mask)
  B = max(len(of_query), len(places))
  of_query, of_key, places = (
    jnp.broadcast_to(x, (B, x.shape[1])) for x in (of_query, of_key, places)
  )
  rows = jnp.arange(B)[:, None]
  first = jnp.full((B, S), never).at[rows, of_key].min(places)
  return found & (first[rows, of_query] <= last)


def _bits(S):
  return max(1, (S - 1).bit_length())


def ranks(mask):
  """Numbers the segments of a row from 0 to S - 1.

  Returns:
    int [B, T], int [B, S], and bool [B, T], whether a key has the query's
    segment; the number of a query without is another segment's.
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
