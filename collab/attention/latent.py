# SPDX-License-Identifier: Apache-2.0
"""Attention to latents of the keys' input, absorbed or as it is written.

Axes: B batch, T queries, S keys, H heads, G groups of heads with a latent each,
R width of a latent, K width of a head.
"""

import math
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import devices
from collab.attention.core import Attention
from collab.attention.heads import Heads


class Latent(Attention, kw_only=True):
  """[x Wq_h; R_t x Wr_h] . [c_g Uk_h; R_s y Wr], values c_g Uv_h.

  Abstract: `heads` of a variant makes `queries`, then the latents c_g of its G
  groups, and ends in `of_latents`. What rotates is there under rope only, with
  one key for all heads. In the absorbed form queries are x Wq_h Uk_h^T, values
  are c_g, and Uv_h follows. Decoding needs it, and it is cheaper where R <= K;
  else training makes keys and values as they are written.

  Attributes:
    latent_dim: G R.
    rope_dim: d_R, width of what rotates; needed under rope, and 0 without.
    kv_heads: G, a field or a constant of the variant.
  """

  latent_dim: int
  rope_dim: int = 0

  separate_values = False
  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    rope_key='dim -> width',
    key_up='width -> heads width',
    value_up='width -> heads width',
  )

  def queries(self, x):
    """Computes x Wq_h and x Wr_h, [B, T, H, K + d_R]."""
    if (self.rope is None) != (self.rope_dim == 0) or self.rope_dim < 0:
      raise ValueError(
        f'rope_dim={self.rope_dim} with rope={self.rope}; expected at least 1 '
        'with rope, and 0 without.'
      )
    K = self.head_dim(x.shape[-1])
    return self.project('query', x, (self.num_heads, K + self.rope_dim))

  def of_latents(self, q, y, c, positions):
    """Makes Heads of what `queries` returned and latents c [B, S, G, R]."""
    H, K, (*shape, G, R) = self.num_heads, q.shape[3] - self.rope_dim, c.shape
    q, turned = q[..., :K], q[..., K:]
    key_up = self.up('key_up', K)
    if self.decode or R <= K:  # absorbed
      q, k = self.einsum('bthk,rhk->bthr', q, key_up), c
      v = None if self.rope is None else c
    else:
      # Of several groups each device has as many, perhaps copies.
      n = math.lcm(G, devices.tensor()) if G > 1 else 1
      each = jnp.repeat(c, n // G, 2)
      k, v = (
        self.einsum('bsgr,rgnk->bsgnk', each, up.reshape(R, n, H // n, K))
        for up in (key_up, self.up('value_up', K))
      )
      k, v = k.reshape(*shape, H, K), v.reshape(*shape, H, K)
    if self.decode:  # what the cache keeps
      k, v = c.reshape(*shape, 1, G * R), None
    if self.rope is not None:
      shared = self.project('rope_key', y, (self.rope_dim,), use_bias=False)
      shared = self.rotate(shared[:, :, None], positions.keys)
      shared = jnp.repeat(shared, k.shape[2], 2)
      q = jnp.concatenate([q, self.rotate(turned, positions.queries)], -1)
      k = jnp.concatenate([k, shared], -1)
    return Heads(q=q, k=k, v=v, scale=(K + self.rope_dim) ** -0.5)

  def read(self, h, positions):
    if not self.decode:
      return h
    G, n = self.kv_heads, self.latent_dim
    c = h.k[..., :n].reshape(*h.k.shape[:2], G, n // G)
    if self.rope is None:
      return h._replace(k=c)
    shared = jnp.repeat(h.k[..., n:], G, 2)
    return h._replace(k=jnp.concatenate([c, shared], -1), v=c)

  def finish(self, o):
    if o.shape[-1] != self.latent_dim // self.kv_heads:  # not absorbed
      return o
    K = nn.unbox(self.get_variable('params', 'key_up'))['kernel'].shape[-1]
    return self.einsum('bthr,rhk->bthk', o, self.up('value_up', K))

  def up(self, name, K):
    shape = self.latent_dim // self.kv_heads, self.num_heads, K
    return Up(shape, self.kernel_init, self.param_dtype, name=name)()

  def einsum(self, spec, x, kernel):
    kernel = kernel.astype(x.dtype)
    return jnp.einsum(spec, x, kernel, precision=self.precision)


class Up(nn.Module):
  """A projection [R, H, K] used as a matrix and initialised as in linen."""

  shape: tuple[int, int, int]
  kernel_init: nn.initializers.Initializer
  dtype: Any

  @nn.compact
  def __call__(self):
    R, H, K = self.shape

    def init(key):
      kernel = self.kernel_init(key, (R, H * K), self.dtype)
      # The kernel may be boxed with its partitioning.
      return jax.tree.map(lambda x: x.reshape(self.shape), kernel)

    return self.param('kernel', init)
