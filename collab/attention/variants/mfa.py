# SPDX-License-Identifier: Apache-2.0
"""Multi-matrix factorisation attention."""

from typing import ClassVar

from collab.attention.core import Attention
from collab.attention.heads import Heads


def head_width(layer: Attention, D: int) -> int:
  """Returns C of a layer with fields query_dim and head_width, and checks them.

  Args:
    layer: MFA or MFAKR.
    D: width of inputs_q.
  """
  H, C = layer.num_heads, layer.head_width
  if layer.query_dim < 1 or C < 0:
    raise ValueError(
      f'query_dim={layer.query_dim} must be at least 1, head_width={C} at '
      'least 0.'
    )
  if C and layer.qkv_features not in (None, 0, H * C):
    raise ValueError(
      f'head_width={C} times num_heads={H} is not '
      f'qkv_features={layer.qkv_features}; give one of them.'
    )
  return C or layer.head_dim(D)


class MFA(Attention, kw_only=True):
  """softmax(x Sq Q_h (y Sk)^T / sqrt(C)) z Sv, one key and value for all heads.

  arXiv 2412.19255. Keys and values are of width C, which may be more than d,
  since the cache has one of each. The matrices Q_h [Cq, C] are full. Diagonal
  ones make this mhe_mul (C = d), or give it the scores of collab, and diagonal
  blocks of ones those of mha.
  Parameters (no biases): D Cq + Cq H C + 2 D C + H C D. Cache: 2 C scalars a
  token; under rope the key is rotated, and so are the heads' queries.
  qk_norm is of x Sq, before Q_h, and of the key.

  Attributes:
    query_dim: Cq.
    head_width: C; 0 for qkv_features / H.
  """

  query_dim: int
  head_width: int = 0

  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = {
    'query_down': 'dim -> width',
    'query': 'width -> heads width',
    '(key|value)': 'dim -> shared width',
  }

  def heads(self, x, y, z, positions):
    H, C = self.num_heads, head_width(self, x.shape[-1])
    q = self.project('query_down', x, self.query_dim, use_bias=False)
    q = self.project('query', self.normalize('query', q), (H, C))
    k = self.normalize('key', self.project('key', y, (1, C)))
    return Heads(
      q=self.rotate(q, positions.queries),
      k=self.rotate(k, positions.keys),
      v=self.project('value', z, (1, C)),
    )
