# SPDX-License-Identifier: Apache-2.0
"""Grouped-tied attention."""

from typing import ClassVar

import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class GTA(Attention, kw_only=True):
  """softmax(x Wq_h [half of c_g; y Wr]^T / sqrt(d)) c_g, c_g = y Wc_g.

  arXiv 2505.21487: a group's value c_g [d] is also the first half of its key.
  All groups share the other half, of width floor(d / 2). Under rope it alone
  rotates, with the last floor(d / 2) dimensions of the query.
  Parameters (no biases): 2 D H d + D G d + D d / 2. Cache: G d + d / 2 scalars
  a token, [c_1; ..; c_G; R_s y Wr].

  qk_norm, which the paper does not have, is of the query, c_g and y Wr, before
  the rotation; so the values have it.

  Attributes:
    kv_heads: G, divides num_heads.
  """

  kv_heads: int

  separate_values = False
  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = {
    'query': 'dim -> heads width',
    'key_value': 'dim -> groups width',
    'rope_key': 'dim -> shared width',
    '(key_value|rope_key)_norm/scale': 'width',
  }

  def heads(self, x, y, z, positions):
    H, G, K = self.num_heads, self.kv_heads, self.head_dim(x.shape[-1])
    if G < 1 or H % G:
      raise ValueError(f'kv_heads={G} does not divide num_heads={H}.')
    if K < 2:
      raise ValueError(f'A head of width {K} has no half; expected 2 or more.')
    q = self.normalize('query', self.project('query', x, (H, K)))
    kv = self.normalize('key_value', self.project('key_value', y, (G, K)))
    shared = self.project('rope_key', y, (1, K // 2))
    shared = self.normalize('rope_key', shared)
    shared = self.rotate(shared, positions.keys)
    n = K - K // 2
    turned = self.rotate(q[..., n:], positions.queries)
    q = jnp.concatenate([q[..., :n], turned], -1)
    if not self.decode:
      return self.grouped(q, kv, shared)
    kept = kv.reshape(*kv.shape[:2], 1, G * K)
    return Heads(q=q, k=jnp.concatenate([kept, shared], -1))

  def read(self, h, positions):
    if not self.decode:
      return h
    G, K = self.kv_heads, h.q.shape[-1]
    kept, shared = h.k[..., : G * K], h.k[..., G * K :]
    return self.grouped(h.q, kept.reshape(*kept.shape[:2], G, K), shared)

  def grouped(self, q, kv, shared):
    """Makes the heads of kv [B, S, G, K] and shared [B, S, 1, K // 2]."""
    half = kv[..., : kv.shape[-1] - shared.shape[-1]]
    shared = jnp.repeat(shared, kv.shape[2], 2)
    return Heads(q=q, k=jnp.concatenate([half, shared], -1), v=kv)
