# SPDX-License-Identifier: Apache-2.0
"""Shared key-value attention, a baseline of the MHE paper."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class SKV(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_g)^T / sqrt(d)) y Wk_g, g = floor(h G / H).

  The values are the keys. arXiv 2310.07911's SKV as we read it, with G = H; the
  paper gives no formula. arXiv 2606.04032 has it with fewer keys, as Q-K=V.
  Parameters (no biases): 2 D H d + D G d. Cache: G d scalars a token, under
  rope and qk_norm too: a key is normalised and rotated when it is read, a value
  is not.

  Attributes:
    kv_heads: G, divides num_heads; 0 for num_heads.
  """

  kv_heads: int = 0

  separate_values = False
  takes = ('qk_norm', 'rope')
  reads_positions = True
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    key='dim -> groups width',
  )

  def heads(self, x, y, z, positions):
    H, G = self.num_heads, self.kv_heads or self.num_heads
    K = self.head_dim(x.shape[-1])
    if G < 1 or H % G:
      raise ValueError(f'kv_heads={G} does not divide num_heads={H}.')
    q = self.normalize('query', self.project('query', x, (H, K)))
    return Heads(
      q=self.rotate(q, positions.queries), k=self.project('key', y, (G, K))
    )

  def read(self, h, positions):
    if self.rope is None and not self.qk_norm:
      return h
    k = self.rotate(self.normalize('key', h.k), positions.keys)
    return h._replace(k=k, v=h.k)
