# SPDX-License-Identifier: Apache-2.0
"""MHE-MUL: multiple head embeddings that are multiplied."""

from typing import ClassVar

from flax import linen as nn

from collab.attention.core import Attention
from collab.attention.heads import Heads


class MHEMul(Attention, kw_only=True):
  """softmax(Q_h K_h^T / sqrt(d)) V_h, Q_h = q * (offset + eq_h) and so on.

  arXiv 2310.07911, MHE-MUL: q = x Wq, k = y Wk, v = z Wv are one head wide,
  heads differ by embeddings eq, ek, ev [H, d]. Both products are applied to the
  query, so there is one key head; ev scales the mixed value.
  Parameters (no biases): 3 D d + 3 H d + H d D. Cache: 2 d scalars a token.

  Attributes:
    offset: constant that embeddings are added to (1 is our reading of the
      paper).
    embedding_std: std of the normal distribution that initialises embeddings.
  """

  offset: float = 1.0
  embedding_std: float = 0.02

  axes: ClassVar[dict] = dict(
    query='dim -> width',
    key='dim -> width',
    value='dim -> width',
    query_embedding='heads width',
    key_embedding='heads width',
    value_embedding='heads width',
  )

  def heads(self, x, y, z, positions):
    K = self.head_dim(x.shape[-1])
    q = self.project('query', x, (K,))[:, :, None]
    return Heads(
      q=q * self.embedding('query', q) * self.embedding('key', q),
      k=self.project('key', y, (K,))[:, :, None],
      v=self.project('value', z, (K,))[:, :, None],
    )

  def finish(self, o):
    return o * self.embedding('value', o)

  def embedding(self, name, like):
    """Computes offset + e, [1, 1, H, d]."""
    shape = self.num_heads, like.shape[-1]
    init = nn.initializers.normal(self.embedding_std)
    e = self.vector(f'{name}_embedding', init, shape, like)
    return self.offset + e[None, None]
