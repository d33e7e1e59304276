# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention; multi-query attention is kv_heads=1."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class GQA(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_g)^T / sqrt(d)) z Wv_g, g = floor(h G / H).

  arXiv 2305.13245; with G = 1 it is MQA, arXiv 1911.02150.
  Parameters (no biases): 2 D H d + 2 D G d. Cache: 2 G d scalars a token; under
  rope it has rotated keys. rope and qk_norm as in mha.

  Attributes:
    kv_heads: G, divides num_heads.
    scale: factor of the scores, 0 for 1 / sqrt(d).
  """

  kv_heads: int
  scale: float = 0.0

  takes = ('normalize_qk', 'qk_norm', 'rope')
  axes: ClassVar[dict] = {
    'query': 'dim -> heads width',
    '(key|value)': 'dim -> groups width',
  }

  def heads(self, x, y, z, positions):
    H, G, K = self.num_heads, self.kv_heads, self.head_dim(x.shape[-1])
    if G < 1 or H % G:
      raise ValueError(f'kv_heads={G} does not divide num_heads={H}.')
    q = self.normalize('query', self.project('query', x, (H, K)))
    k = self.normalize('key', self.project('key', y, (G, K)))
    return Heads(
      q=self.rotate(q, positions.queries),
      k=self.rotate(k, positions.keys),
      v=self.project('value', z, (G, K)),
      scale=self.scale or None,
    )
