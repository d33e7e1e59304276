# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, the baseline of both papers."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class MHA(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_h)^T / sqrt(d)) z Wv_h, h = 1..H (arXiv 1706.03762).

  Parameters (no biases): 2 D H d + 2 D key_features; 4 D^2 by default.
  Cache: key_features + H d scalars a token. Under rope queries and keys rotate,
  and the cache has rotated keys. The keys' biases, which the softmax cancels,
  then have an effect: b_k . R_(t-s) q depends on s. qk_norm is per head.

  Attributes:
    key_features: total width of queries and keys, 0 for qkv_features. A smaller
      width is the "concatenate" baseline of arXiv 2006.16362.
    scale: factor of the scores, 0 for 1 / sqrt(qkv_features / H).
  """

  key_features: int = 0
  scale: float = 0.0

  takes = ('normalize_qk', 'qk_norm', 'rope', 'value_dims')
  axes: ClassVar[dict] = {'(query|key|value)': 'dim -> heads width'}

  def heads(self, x, y, z, positions):
    H, V = self.num_heads, self.head_dim(x.shape[-1])
    if self.key_features % H:
      raise ValueError(
        f'num_heads={H} does not divide key_features={self.key_features}.'
      )
    K = self.key_features // H or V
    q = self.normalize('query', self.project('query', x, (H, K)))
    k = self.normalize('key', self.project('key', y, (H, K)))
    return Heads(
      q=self.rotate(q, positions.queries),
      k=self.rotate(k, positions.keys),
      v=self.values(z, V),
      scale=self.scale or V**-0.5,
    )
