# SPDX-License-Identifier: Apache-2.0
"""Shared key-value attention, a baseline of the MHE paper."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class SKV(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_h)^T / sqrt(d)) y Wk_h: the values are the keys.

  arXiv 2310.07911's SKV as we read it; the paper gives no formula.
  Parameters (no biases): 3 D H d. Cache: H d scalars a token, under rope and
  qk_norm too: a key is normalised and rotated when it is read, a value is not.
  """

  separate_values = False
  takes = ('qk_norm', 'rope')
  reads_positions = True
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    key='dim -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    q = self.normalize('query', self.project('query', x, (H, K)))
    return Heads(
      q=self.rotate(q, positions.queries), k=self.project('key', y, (H, K))
    )

  def read(self, h, positions):
    if self.rope is None and not self.qk_norm:
      return h
    k = self.rotate(self.normalize('key', h.k), positions.keys)
    return h._replace(k=k, v=h.k)
