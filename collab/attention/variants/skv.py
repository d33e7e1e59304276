# SPDX-License-Identifier: Apache-2.0
"""Shared key-value attention, a baseline of the MHE paper."""

from typing import ClassVar

from collab.attention.core import Attention, Heads


class SKV(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_h)^T / sqrt(d)) y Wk_h: the values are the keys.

  arXiv 2310.07911's SKV as understood here (the paper gives no formula).
  Parameters (no biases): 3 D H d. Cache: H d scalars a token.
  """

  separate_values: ClassVar[bool] = False

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    return Heads(
      q=self.project('query', x, (H, K)), k=self.project('key', y, (H, K))
    )

  def count(self, D):
    H, K = self.num_heads, self.head_dim(D)
    Dout = self.out_features or D
    return 2 * D * H * K + H * K * Dout + self.use_bias * (2 * H * K + Dout)

  def cache_size(self, D):
    return self.num_heads * self.head_dim(D)
