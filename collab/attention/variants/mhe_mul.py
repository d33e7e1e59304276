# SPDX-License-Identifier: Apache-2.0
"""MHE-MUL: multiple head embeddings that are multiplied."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class MHEMul(Attention, kw_only=True):
  """softmax(Q_h K_h^T / sqrt(d)) V_h, Q_h = q * (offset + eq_h) and so on.

  arXiv 2310.07911, MHE-MUL: q = x Wq, k = y Wk, v = z Wv are one head wide,
  heads differ by embeddings eq, ek, ev [H, d]. Both products are applied to the
  query, so there is one key head; ev scales the mixed value.
  Parameters (no biases): 3 D d + 3 H d + H d D. Cache: 2 d scalars a token.

  Under rope, Q_h and K_h rotate. A product with ek commutes with the rotation
  where ek is the same in both dimensions of a plane, (1 + 1) a, and else has a
  part (1 - 1) b, which conjugates the plane:

    R_s (ek * k) = a R_s k + b R_s conj(k)
    Q_h . K_h = [a R_t Q; b R_t Q] . [R_s k; R_s conj(k)],  Q = q * eq

  So keys are twice as wide; the cache keeps k and is as small as before.

  Attributes:
    offset: constant that embeddings are added to (1 is our reading of the
      paper).
    embedding_std: std of the normal distribution that initialises embeddings.
    fold: under rope, whether both products are applied to the query as without:
      R_t (q * eq * ek) . R_s k. Its scores cost half, and it is another model,
      collaborative attention with k = d. The cache has rotated keys.
  """

  offset: float = 1.0
  embedding_std: float = 0.02
  fold: bool = False

  takes = ('qk_norm', 'rope')

  axes: ClassVar[dict] = {
    '(query|key|value)': 'dim -> width',
    '(query|key|value)_embedding': 'heads width',
  }

  @property
  def reads_positions(self):
    return self.rope is not None and not self.fold

  def heads(self, x, y, z, positions):
    if self.fold and self.rope is None:
      raise ValueError('fold=True is a form under rope, and rope is None.')
    K = self.head_dim(x.shape[-1])
    q = self.normalize('query', self.project('query', x, (K,)))[:, :, None]
    k = self.normalize('key', self.project('key', y, (K,)))[:, :, None]
    v = self.project('value', z, (K,))[:, :, None]
    q, ek = q * self.embedding('query', q), self.embedding('key', q)
    if self.reads_positions:
      q, n = self.rotate(q, positions.queries), self.rope.rotated(K)
      one, two = jnp.split(ek[..., :n], 2, -1)
      a = jnp.concatenate([(one + two) / 2] * 2 + [ek[..., n:]], -1)
      b = jnp.concatenate([(one - two) / 2] * 2, -1)
      q = jnp.concatenate([q * a, q[..., :n] * b], -1)
    else:
      q = self.rotate(q * ek, positions.queries)
      k = self.rotate(k, positions.keys)
    return Heads(q=q, k=k, v=v, scale=K**-0.5)

  def read(self, h, positions):
    if not self.reads_positions:
      return h
    n = self.rope.rotated(h.k.shape[-1])
    k = self.rotate(h.k, positions.keys)
    conjugate = self.rotate(self.rope.conjugate(h.k), positions.keys)
    return h._replace(k=jnp.concatenate([k, conjugate[..., :n]], -1))

  def finish(self, o):
    return o * self.embedding('value', o)

  def embedding(self, name, like):
    """Computes offset + e, [1, 1, H, d]."""
    shape = self.num_heads, like.shape[-1]
    init = nn.initializers.normal(self.embedding_std)
    e = self.vector(f'{name}_embedding', init, shape, like)
    return self.offset + e[None, None]
