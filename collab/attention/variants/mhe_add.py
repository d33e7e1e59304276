# SPDX-License-Identifier: Apache-2.0
"""MHE-ADD: multiple head embeddings that are added."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class MHEAdd(Attention, kw_only=True):
  """softmax((q + eq_h) (k + ek_h)^T / sqrt(d)) (v + ev_h), one q, k, v for all.

  arXiv 2310.07911, MHE-ADD: q = x Wq, k = y Wk, v = z Wv are one head wide, and
  heads differ by embeddings eq, ek, ev [H, d]. For each query (q + eq_h) . ek_h
  is a constant, so the softmax cancels ek. It remains a parameter with zero
  gradient, because the paper counts it. The remaining effect of eq is a bias
  eq_h . k_s for each key. ev is added to the mixed value, since the weights sum
  to one; dropout does not drop it.
  Parameters (no biases): 3 D d + 3 H d + H d D.
  Cache: 2 d + H scalars a token.

  Attributes:
    embedding_std: std of the normal distribution that initialises embeddings.
  """

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
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    q = self.project('query', x, (K,))
    k = self.project('key', y, (K,))
    init = nn.initializers.normal(self.embedding_std)
    eq = self.vector('query_embedding', init, (H, K), k)
    self.vector('key_embedding', init, (H, K), k)  # has no effect, see above
    return Heads(
      q=q[:, :, None],
      k=k[:, :, None],
      v=self.project('value', z, (K,))[:, :, None],
      key_bias=jnp.einsum('bsk,hk->bsh', k, eq, precision=self.precision)
      * K**-0.5,
    )

  def finish(self, o):
    H, K = o.shape[2:]
    init = nn.initializers.normal(self.embedding_std)
    return o + self.vector('value_embedding', init, (H, K), o)[None, None]
