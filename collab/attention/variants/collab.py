# SPDX-License-Identifier: Apache-2.0
"""Collaborative attention: heads mix one shared query/key space."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from collab.attention.core import Attention
from collab.attention.heads import Heads


def concatenate(key, shape, dtype=jnp.float32):
  """Initialises the mixing [H, k] with blocks of ones.

  Head h has the h-th part of k for itself. With k = D this is multi-head
  attention. The parts are those of numpy.array_split where H does not divide k.
  """
  del key
  H, k = shape
  widths = [len(part) for part in np.array_split(range(k), H)]
  return jnp.asarray(np.repeat(np.eye(H), widths, 1), dtype)


MIXING = {
  'concatenate': concatenate,
  'normal': nn.initializers.normal(0.2),
  'xavier': nn.initializers.xavier_uniform(),
}
BIASES = ('content', 'shared', 'none')


class Collab(Attention, kw_only=True):
  """softmax((x Wq * m_h) (y Wk)^T / sqrt(d) + y c_h / sqrt(d)) z Wv_h.

  arXiv 2006.16362, section 3: Wq, Wk [D, k] are shared, and head h has a mixing
  row m_h [k]. c_h is the content bias: the part of MHA's query and key biases
  that the softmax does not cancel. d = qkv_features / H, independent of k.
  Parameters (no biases): 2 D k + H k + 2 D H d, and D H of content bias. Cache:
  k + H d scalars a token, and H more with content bias.

  Attributes:
    shared_dim: k.
    bias: 'content', 'shared' (query and key biases before the mixing) or
      'none'; use_bias=False removes them all.
    mixing_init: 'normal' (std 0.2), 'concatenate' (blocks of ones) or 'xavier'.
  """

  shared_dim: int
  bias: str = 'content'
  mixing_init: str = 'normal'

  axes: ClassVar[dict] = dict(
    query='dim -> width',
    key='dim -> width',
    mixing='heads width',
    content_bias='dim -> heads',
    value='dim -> heads width',
  )

  def heads(self, x, y, z, positions):
    H, K, V = self.num_heads, self.shared_dim, self.head_dim(x.shape[-1])
    for field, legal in (('bias', BIASES), ('mixing_init', MIXING)):
      got = getattr(self, field)
      if got not in legal:
        raise ValueError(f'{field}={got!r} is none of {", ".join(legal)}.')
    if K < 1:
      raise ValueError(f'shared_dim={K} must be at least 1.')
    shared = self.use_bias and self.bias == 'shared'
    q = self.project('query', x, K, use_bias=shared)
    k = self.project('key', y, K, use_bias=shared)
    mixing = self.vector('mixing', MIXING[self.mixing_init], (H, K), q)
    key_bias = None
    if self.use_bias and self.bias == 'content':
      key_bias = self.project('content_bias', y, H, use_bias=False) * V**-0.5
    return Heads(
      q=q[:, :, None] * mixing[None, None],
      k=k[:, :, None],
      v=self.project('value', z, (H, V)),
      key_bias=key_bias,
      scale=V**-0.5,
    )
