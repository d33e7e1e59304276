# SPDX-License-Identifier: Apache-2.0
"""Multi-matrix factorisation attention that reuses its key."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads
from collab.attention.variants.mfa import head_width


class MFAKR(Attention, kw_only=True):
  """softmax(x Sq Q_h k^T / sqrt(C)) v, k = y Sk, v = k + a * (k N).

  arXiv 2412.19255's MFA-KR: mfa whose value is the key and a gated map of it, N
  [C, C] and a [C]. The map is linear, so it follows the mixing. That a begins
  at 0, where values are the keys, is our choice.
  Parameters (no biases): D Cq + Cq H C + D C + C^2 + C + H C D. Cache: C
  scalars a token, under rope and qk_norm too: a key is normalised and rotated
  when it is read, a value is not. qk_norm as in mfa.

  Attributes:
    query_dim: Cq.
    head_width: C; 0 for qkv_features / H.
  """

  query_dim: int
  head_width: int = 0

  separate_values = False
  takes = ('qk_norm', 'rope')
  reads_positions = True
  axes: ClassVar[dict] = dict(
    query_down='dim -> width',
    query='width -> heads width',
    key='dim -> shared width',
    value='width -> width',
    value_gate='width',
  )

  def heads(self, x, y, z, positions):
    H, C = self.num_heads, head_width(self, x.shape[-1])
    q = self.project('query_down', x, self.query_dim, use_bias=False)
    q = self.project('query', self.normalize('query', q), (H, C))
    return Heads(
      q=self.rotate(q, positions.queries), k=self.project('key', y, (1, C))
    )

  def read(self, h, positions):
    if self.rope is None and not self.qk_norm:
      return h
    k = self.rotate(self.normalize('key', h.k), positions.keys)
    return h._replace(k=k, v=h.k)

  def finish(self, o):
    (C,) = o.shape[3:]
    gate = self.vector('value_gate', nn.initializers.zeros, (C,), o)
    mapped = self.project('value', o, C, use_bias=False)
    return o + mapped * jnp.reshape(gate, (1, 1, 1, C))
