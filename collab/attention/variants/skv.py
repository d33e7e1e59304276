# SPDX-License-Identifier: Apache-2.0
"""Shared key-value attention, a baseline of the MHE paper."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class SKV(Attention, kw_only=True):
  """softmax(x Wq_h (y Wk_h)^T / sqrt(d)) y Wk_h: the values are the keys.

  arXiv 2310.07911's SKV as we read it; the paper gives no formula.
  Parameters (no biases): 3 D H d. Cache: H d scalars a token.
  """

  separate_values = False
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    key='dim -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    return Heads(
      q=self.project('query', x, (H, K)), k=self.project('key', y, (H, K))
    )
