# SPDX-License-Identifier: Apache-2.0
"""MHE-ADD: multiple head embeddings that are added."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp

from collab.attention import rope
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

  Under rope, q + eq_h and k + ek_h rotate, and ek has an effect: with planes as
  complex numbers, Q = R_t (q + eq_h) and conj for the conjugate,

    Q . R_s (k + ek_h) = [Q; Q conj(ek_h)] . [R_s k; exp(i s rate)]

  so ek_h adds a kernel over distances that depends on the query. Nor is eq_h a
  bias of a key any more. All heads share the positional key exp(i s rate), made
  when keys are read: keys are twice as wide, and the cache has 2 d scalars.

  Under rope with fraction < 1, eq and ek have the width of the dimensions that
  do not rotate, and are added there alone. ek remains without effect, eq a bias
  of each key, and the cache 2 d + H. Parameters: 2 H fraction d fewer.

  Attributes:
    embedding_std: std of the normal distribution that initialises embeddings.
  """

  embedding_std: float = 0.02

  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = {
    '(query|key|value)': 'dim -> width',
    '(query|key|value)_embedding': 'heads width',
  }

  @property
  def reads_positions(self):
    return self.rope is not None and self.rope.fraction == 1

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    q = self.normalize('query', self.project('query', x, (K,)))[:, :, None]
    k = self.normalize('key', self.project('key', y, (K,)))
    v, key_bias = self.project('value', z, (K,))[:, :, None], None
    n = 0 if self.rope is None else self.rope.rotated(K)
    init, width = nn.initializers.normal(self.embedding_std), K - n or K
    eq = self.vector('query_embedding', init, (H, width), k)
    ek = self.vector('key_embedding', init, (H, width), k)
    if n == K:
      q = self.rotate(q + eq[None, None], positions.queries)
      ek = rope.conjugate(ek)[None, None]
      q = jnp.concatenate([q, rope.multiply(q, ek)], -1)
    else:  # ek has no effect, see above
      if self.soft_cap is not None:
        raise ValueError(
          'mhe_add leaves out key embeddings, which a softmax cancels and a '
          'soft_cap does not; soft_cap needs rope with fraction=1.'
        )
      key_bias = jnp.einsum(
        'bsk,hk->bsh', k[..., n:], eq, precision=self.precision
      )
      key_bias *= K**-0.5
      q = self.rotate(q, positions.queries)
    k = self.rotate(k[:, :, None], positions.keys)
    return Heads(q=q, k=k, v=v, key_bias=key_bias, scale=K**-0.5)

  def read(self, h, positions):
    if h.key_bias is not None:
      return h
    one = jnp.ones_like(h.k[..., : h.k.shape[-1] // 2])
    at = self.rotate(jnp.concatenate([one, 0 * one], -1), positions.keys)
    return h._replace(k=jnp.concatenate([h.k, at], -1))

  def finish(self, o):
    H, K = o.shape[2:]
    init = nn.initializers.normal(self.embedding_std)
    return o + self.vector('value_embedding', init, (H, K), o)[None, None]
