# SPDX-License-Identifier: Apache-2.0
"""Grouped latent attention."""

import math
from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp

from collab.attention import devices
from collab.attention.core import Attention
from collab.attention.heads import Heads
from collab.attention.variants.mla import Up


class GLA(Attention, kw_only=True):
  """softmax(x Wq_h (c_g Uk_h)^T / sqrt(d)) c_g Uv_h, [c_1; ..; c_G] = y Wc.

  arXiv 2505.21487: mla, but group g of H / G heads has a latent c_g of its own,
  of width r / G, so that G devices can keep one each. G = 1 is mla. The
  authors' model also makes queries from a latent, which mla and this do not.
  Parameters (no biases): D H d + D r + 2 (r / G) H d + H d D; only query and
  out have biases. Cache: r scalars a token.

  Under rope as in mla: [x Wq_h; R_t x Wr_h] . [c_g Uk_h; R_s y Wr], where one
  rotated key of width d_R serves all heads of all groups. The cache has
  [c_1; ..; c_G; R_s y Wr], r + d_R scalars a token, and c_g is the value.
  Parameters: D H d_R + D d_R more. qk_norm is of each c_g.

  Attributes:
    latent_dim: r.
    kv_heads: G, divides num_heads and latent_dim.
    rope_dim: d_R, needed under rope, and 0 without.
  """

  latent_dim: int
  kv_heads: int = 2
  rope_dim: int = 0

  separate_values = False
  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    latent='dim -> groups width',
    rope_key='dim -> width',
    key_up='width -> heads width',
    value_up='width -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, G, K = self.num_heads, self.kv_heads, self.head_dim(x.shape[-1])
    self.check()
    R, shape = self.latent_dim // G, y.shape[:2]
    q = self.project('query', x, (H, K + self.rope_dim))
    c = self.project('latent', y, (G, R), use_bias=False)
    c = self.normalize('latent', c)
    q, turned = q[..., :K], q[..., K:]
    key_up = self.up('key_up', K)
    if self.decode or R <= K:  # the absorbed form
      q, k = self.einsum('bthk,rhk->bthr', q, key_up), c
      v = None if self.rope is None else c
    else:
      n = math.lcm(G, devices.tensor())  # of which each device has as many
      latents = jnp.repeat(c, n // G, 2)
      grouped = lambda up: self.einsum(
        'bsgr,rgnk->bsgnk', latents, up.reshape(R, n, H // n, K)
      ).reshape(*shape, H, K)
      k, v = grouped(key_up), grouped(self.up('value_up', K))
    if self.decode:
      k, v = c.reshape(*shape, 1, G * R), None
    if self.rope is not None:
      shared = self.project('rope_key', y, (self.rope_dim,), use_bias=False)
      shared = self.rotate(shared[:, :, None], positions.keys)
      k = jnp.concatenate([k, jnp.repeat(shared, k.shape[2], 2)], -1)
      q = jnp.concatenate([q, self.rotate(turned, positions.queries)], -1)
    return Heads(q=q, k=k, v=v, scale=(K + self.rope_dim) ** -0.5)

  def check(self):
    H, G, R = self.num_heads, self.kv_heads, self.latent_dim
    if G < 1 or H % G or R < 1 or R % G:
      raise ValueError(
        f'kv_heads={G} does not divide num_heads={H} and latent_dim={R}.'
      )
    if (self.rope is None) != (self.rope_dim == 0) or self.rope_dim < 0:
      raise ValueError(
        f'rope_dim={self.rope_dim} with rope={self.rope}; expected at least 1 '
        'with rope, and 0 without.'
      )

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
