# SPDX-License-Identifier: Apache-2.0
"""Single-head attention, the lower bound of the MHE paper."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


class SHA(Attention, kw_only=True):
  """softmax(x Wq (y Wk)^T / sqrt(d)) z Wv, repeated for all H heads before Wo.

  arXiv 2310.07911's SHA, as its arithmetic implies: MHE without embeddings.
  Parameters (no biases): 3 D d + H d D. Cache: 2 d scalars a token; under rope
  it has rotated keys.
  """

  takes = ('normalize_qk', 'qk_norm', 'rope')
  axes: ClassVar[dict] = {'(query|key|value)': 'dim -> width'}

  def heads(self, x, y, z, positions):
    K = self.head_dim(x.shape[-1])
    q = self.normalize('query', self.project('query', x, (K,)))[:, :, None]
    k = self.normalize('key', self.project('key', y, (K,)))[:, :, None]
    return Heads(
      q=self.rotate(q, positions.queries),
      k=self.rotate(k, positions.keys),
      v=self.project('value', z, (K,))[:, :, None],
    )
