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

  arXiv 2405.04434 without its rotary part. Absorbed form: (q_h Uk_h^T) c^T has
  one key head c, whose values are c itself, and Uv_h follows. Where r > d,
  training uses the form as written, which is cheaper there. Parameters (no
  biases): D H d + D r + 2 r H d + H d D; only query and out have biases. Cache:
  r scalars a token.

  Attributes:
    latent_dim: r.
  """

  latent_dim: int

  separate_values = False
  axes: ClassVar[dict] = dict(
    query='dim -> heads width',
    latent='dim -> width',
    key_up='width -> heads width',
    value_up='width -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, K, R = self.num_heads, self.head_dim(x.shape[-1]), self.latent_dim
    if R < 1:
      raise ValueError(f'latent_dim={R} must be at least 1.')
    q = self.project('query', x, (H, K))
    c = self.project('latent', y, (R,), use_bias=False)
    key_up = self.up('key_up', K)
    if self.decode or R <= K:  # the absorbed form
      q = self.einsum('bthk,rhk->bthr', q, key_up)
      return Heads(q=q, k=c[:, :, None], scale=K**-0.5)
    return Heads(
      q=q,
      k=self.einsum('bsr,rhk->bshk', c, key_up),
      v=self.einsum('bsr,rhk->bshk', c, self.up('value_up', K)),
    )

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
