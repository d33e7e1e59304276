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
    planes: for each pair of the d_R dimensions a plane of a whole head's rope,
      by whose rate it turns; several may have the same. By default d_R has a
      series of rates of its own.
    decoupled: False rotates whole keys, R_s c_g Uk_h, and rope_dim is 0. They
      are made of the latents again whenever they are read.
    kv_heads: G, a field or a constant of the variant.
  """

  latent_dim: int
  rope_dim: int = 0
  planes: tuple[int, ...] | None = None
  decoupled: bool = True

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
    turns = self.rope is not None and self.decoupled
    if turns != (self.rope_dim != 0) or self.rope_dim < 0:
      raise ValueError(
        f'rope_dim={self.rope_dim} with rope={self.rope}; expected at least 1 '
        'with rope, and 0 without, or with decoupled=False.'
      )
    K = self.head_dim(x.shape[-1])
    if self.planes is not None:
      self.check_planes(K)
    return self.project('query', x, (self.num_heads, K + self.rope_dim))

  def check_planes(self, K):
    whole = self.rope is not None and self.rope.fraction == 1
    legal = all(0 <= i < K // 2 for i in self.planes)
    if not whole or not legal or 2 * len(self.planes) != self.rope_dim:
      raise ValueError(
        f'planes={self.planes}; expected half of rope_dim={self.rope_dim} '
        f'numbers from 0 to {K // 2 - 1}, under rope with fraction=1.'
      )

  def turn(self, x, positions, K):
    """Rotates x [B, S, G, d_R], of heads of width K."""
    if self.planes is None:
      return self.rotate(x, positions)
    rates, factor = self.rope.rates(K)
    return self.rope.rotate(x, positions, (rates[list(self.planes)], factor))

  def of_latents(self, q, y, c, positions):
    """Makes Heads of what `queries` returned and latents c [B, S, G, R]."""
    K, (*shape, G, R) = q.shape[3] - self.rope_dim, c.shape
    if not self.decoupled:
      c = c.reshape(*shape, 1, G * R)
      return Heads(q=self.rotate(q, positions.queries), k=c)
    q, turned = q[..., :K], q[..., K:]
    key_up = self.up('key_up', K)
    if self.decode or R <= K:  # absorbed
      q, k = self.einsum('bthk,rhk->bthr', q, key_up), c
      v = None if self.rope is None else c
    else:
      # Of several groups each device has as many, perhaps copies.
      n = math.lcm(G, devices.tensor()) if G > 1 else 1
      each = jnp.repeat(c, n // G, 2)
      k, v = self.whole(each, key_up), self.whole(each, self.up('value_up', K))
    if self.decode:  # what the cache keeps
      k, v = c.reshape(*shape, 1, G * R), None
    if self.rope is not None:
      shared = self.project('rope_key', y, (self.rope_dim,), use_bias=False)
      shared = self.turn(shared[:, :, None], positions.keys, K)
      shared = jnp.repeat(shared, k.shape[2], 2)
      turned = self.turn(turned, positions.queries, K)
      q = jnp.concatenate([q, turned], -1)
      k = jnp.concatenate([k, shared], -1)
    return Heads(q=q, k=k, v=v, scale=(K + self.rope_dim) ** -0.5)

  @property
  def reads_positions(self):
    return not self.decoupled

  def read(self, h, positions):
    if not self.decode and self.decoupled:
      return h
    G, n = self.kv_heads, self.latent_dim
    c = h.k[..., :n].reshape(*h.k.shape[:2], G, n // G)
    if not self.decoupled:
      k, v = (
        self.whole(c, self.up(name, h.q.shape[-1]))
        for name in ('key_up', 'value_up')
      )
      return h._replace(k=self.rotate(k, positions.keys), v=v)
    if self.rope is None:
      return h._replace(k=c)
    shared = jnp.repeat(h.k[..., n:], G, 2)
    return h._replace(k=jnp.concatenate([c, shared], -1), v=c)

  def finish(self, o):
    absorbed = o.shape[-1] == self.latent_dim // self.kv_heads
    if not (self.decoupled and absorbed):
      return o
    K = nn.unbox(self.get_variable('params', 'key_up'))['kernel'].shape[-1]
    return self.einsum('bthr,rhk->bthk', o, self.up('value_up', K))

  def whole(self, c, up):
    """Computes c_g U_h of all heads, [B, S, n, R] -> [B, S, H, K]."""
    (B, S, n, R), (_, H, K) = c.shape, up.shape
    x = self.einsum('bsgr,rgnk->bsgnk', c, up.reshape(R, n, H // n, K))
    return x.reshape(B, S, H, K)

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
