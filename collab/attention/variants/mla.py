# SPDX-License-Identifier: Apache-2.0
"""Multi-head latent attention."""

from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class MLA(Attention, kw_only=True):
  """softmax(x Wq_h (c Uk_h)^T / sqrt(d)) c Uv_h, c = y Wc of width r.

  arXiv 2405.04434. Absorbed form: (q_h Uk_h^T) c^T has one key head c, whose
  values are c itself, and Uv_h follows. Where r > d, training uses the form as
  written, which is cheaper there. Parameters (no biases): D H d + D r + 2 r H d
  + H d D; only query and out have biases. Cache: r scalars a token.

  Rotated keys cannot be absorbed. Under rope (the paper's decoupled form),
  queries and keys have d_R further dimensions, which alone rotate. All heads
  share this part of the key, y Wr:

    [x Wq_h; R_t x Wr_h] . [c Uk_h; R_s y Wr] / sqrt(d + d_R)

  The cache has [c; R_s y Wr], of which c is the value: r + d_R scalars a token.
  Parameters: D H d_R + D d_R more. qk_norm is of the latent c, so keys and
  values both have it.

  Attributes:
    latent_dim: r.
    rope_dim: d_R, needed under rope, and 0 without.
  """

  latent_dim: int
  rope_dim: int = 0

  separate_values = False
  takes = ('qk_norm', 'rope')
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    latent='dim -> width',
    rope_key='dim -> width',
    key_up='width -> heads width',
    value_up='width -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, K, R = self.num_heads, self.head_dim(x.shape[-1]), self.latent_dim
    if R < 1:
      raise ValueError(f'latent_dim={R} must be at least 1.')
    if (self.rope is None) != (self.rope_dim == 0) or self.rope_dim < 0:
      raise ValueError(
        f'rope_dim={self.rope_dim} with rope={self.rope}; expected at least 1 '
        'with rope, and 0 without.'
      )
    q = self.project('query', x, (H, K + self.rope_dim))
    c = self.project('latent', y, (R,), use_bias=False)
    c = self.normalize('latent', c)
    q, turned = q[..., :K], q[..., K:]
    key_up = self.up('key_up', K)
    if self.decode or R <= K:  # the absorbed form
      q = self.einsum('bthk,rhk->bthr', q, key_up)
      k, v = c[:, :, None], None
    else:
      k = self.einsum('bsr,rhk->bshk', c, key_up)
      v = self.einsum('bsr,rhk->bshk', c, self.up('value_up', K))
    if self.rope is not None:
      shared = self.project('rope_key', y, (self.rope_dim,), use_bias=False)
      shared = self.rotate(shared[:, :, None], positions.keys)
      shared = jnp.repeat(shared, k.shape[2], 2)
      q = jnp.concatenate([q, self.rotate(turned, positions.queries)], -1)
      k = jnp.concatenate([k, shared], -1)
    return Heads(q=q, k=k, v=v, scale=(K + self.rope_dim) ** -0.5)

  def read(self, h, positions):
    if self.rope is None or h.v is not None:
      return h
    return h._replace(v=h.k[..., : self.latent_dim])

  def finish(self, o):
    if o.shape[-1] != self.latent_dim:  # not the absorbed form
      return o
    K = nn.unbox(self.get_variable('params', 'key_up'))['kernel'].shape[-1]
    return self.einsum('bthr,rhk->bthk', o, self.up('value_up', K))

  def up(self, name, K):
    shape = self.latent_dim, self.num_heads, K
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
