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
    v = self.project('value', z, (R, K))
    factors = (
      (self.project('key_heads', y, (R, H)), self.rotate(k, positions.keys)),
      (self.project('value_heads', z, (R, H)), v),
    )
    if self.decode:
      k, v = (jnp.concatenate(x, -1) for x in factors)
    else:
      k, v = (self.product(*x) for x in factors)
    return Heads(q=self.rotate(q, positions.queries), k=k, v=v)

  def read(self, h, positions):
    if not self.decode:
      return h
    factors = (jnp.split(x, [self.num_heads], -1) for x in (h.k, h.v))
    k, v = (self.product(*x) for x in factors)
    return h._replace(k=k, v=v)

  def product(self, a, b):
    """Multiplies factors [B, S, R, H] and [B, S, R, d] to [B, S, H, d]."""
    heads = jnp.einsum('bsrh,bsrk->bshk', a, b, precision=self.precision)
    return heads / self.rank
