# SPDX-License-Identifier: Apache-2.0
"""EL attention in its trainable form, a baseline of the MHE paper."""

from typing import ClassVar

from collab.attention import devices
from collab.attention.core import Attention
from collab.attention.heads import Heads


class EL(Attention, kw_only=True):
  """softmax(x Wq_h y_h^T / sqrt(d)) y_h, where y is cut into y_1 .. y_H.

  arXiv 2310.07911's EL-ATT as we read it; the paper gives no formula.
  Parameters (no biases): 2 D^2. Cache: D scalars a token, the input itself,
  under rope and qk_norm too: a key is normalised and rotated when it is read, a
  value is not.
  """

  separate_values = False
  takes = ('qk_norm', 'rope')
  reads_positions = True
  axes: ClassVar[dict] = dict(query='dim -> heads width')

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    if y.shape[-1] != H * K:
      raise ValueError(
        f"EL cuts its keys' input into heads: width {y.shape[-1]}, expected "
        f'qkv_features={H * K}.'
      )
    q = self.normalize('query', self.project('query', x, (H, K)))
    return Heads(
      q=self.rotate(q, positions.queries),
      k=devices.whole(y).reshape(*y.shape[:2], H, K).astype(q.dtype),
    )

  def read(self, h, positions):
    if self.rope is None and not self.qk_norm:
      return h
    k = self.rotate(self.normalize('key', h.k), positions.keys)
    return h._replace(k=k, v=h.k)
