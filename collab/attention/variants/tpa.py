# SPDX-License-Identifier: Apache-2.0
"""Tensor product attention of keys and values."""

from typing import ClassVar

import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class TPA(Attention, kw_only=True):
  """softmax(x Wq_h k_h^T / sqrt(d)) v_h, k_h = sum_r a_rh(y) b_r(y) / R.

  arXiv 2501.06425's TPA-KVonly: the keys of a token, a matrix [H, d], have rank
  R, with factors a_r [H] and b_r [d] that are projections of the token. So have
  its values, with factors of their own.
  Parameters (no biases): 2 D H d + 2 D R (H + d). Cache: 2 R (H + d) scalars a
  token, the factors; heads are made of them when they are read. Under rope, b_r
  of the keys is rotated, which rotates the key. qk_norm is of the query and of
  b_r of the keys, before the rotation.

  Attributes:
    rank: R.
  """

  rank: int = 2

  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = {
    'query': 'dim -> heads width',
    '(key|value)': 'dim -> rank width',
    '(key|value)_heads': 'dim -> rank heads',
  }

  def heads(self, x, y, z, positions):
    H, K, R = self.num_heads, self.head_dim(x.shape[-1]), self.rank
    if R < 1:
      raise ValueError(f'rank={R} must be at least 1.')
    q = self.normalize('query', self.project('query', x, (H, K)))
    k = self.normalize('key', self.project('key', y, (R, K)))
    k = self.rotate(k, positions.keys)
    v = self.project('value', z, (R, K))
    k_heads = self.project('key_heads', y, (R, H))
    v_heads = self.project('value_heads', z, (R, H))
    return Heads(
      q=self.rotate(q, positions.queries),
      k=jnp.concatenate([k_heads, k], -1),
      v=jnp.concatenate([v_heads, v], -1),
    )

  def read(self, h, positions):
    return h._replace(k=self.product(h.k), v=self.product(h.v))

  def product(self, factors):
    """Multiplies factors [B, S, R, H + d] to heads [B, S, H, d]."""
    a, b = jnp.split(factors, [self.num_heads], -1)
    heads = jnp.einsum('bsrh,bsrk->bshk', a, b, precision=self.precision)
    return heads / self.rank
