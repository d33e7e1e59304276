# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, the baseline of both papers."""

from typing import ClassVar

from collab.attention.core import Attention, Heads


class MHA(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_h)^T / sqrt(d)) z Wv_h, h = 1..H (arXiv 1706.03762).

  Parameters (no biases): 2 D H d + 2 D key_features; 4 D^2 by default.
  Cache: key_features + H d scalars a token.

  Attributes:
    key_features: total width of queries and keys, 0 for qkv_features. Below
      that it is the "concatenate" baseline of arXiv 2006.16362.
    scale: of the scores, 0 for 1 / sqrt(qkv_features / H).
  """

  key_features: int = 0
  scale: float = 0.0

  plain_projections: ClassVar[bool] = True

  def heads(self, x, y, z, positions):
    H, V = self.num_heads, self.head_dim(x.shape[-1])
    K = self.key_dim(x.shape[-1])
    return Heads(
      q=self.project('query', x, (H, K)),
      k=self.project('key', y, (H, K)),
      v=self.project('value', z, (H, V)),
      scale=self.scale or V**-0.5,
    )

  def key_dim(self, D):
    H, V = self.num_heads, self.head_dim(D)
    if self.key_features % H:
      raise ValueError(
        f'num_heads={H} does not divide key_features={self.key_features}.'
      )
    return self.key_features // H or V

  def count(self, D):
    H, K, V = self.num_heads, self.key_dim(D), self.head_dim(D)
    Dout = self.out_features or D
    kernels = 2 * D * H * K + D * H * V + H * V * Dout
    kernels += self.normalize_qk * 2 * K
    return kernels + self.use_bias * (2 * H * K + H * V + Dout)

  def cache_size(self, D):
    return self.num_heads * (self.key_dim(D) + self.head_dim(D))
