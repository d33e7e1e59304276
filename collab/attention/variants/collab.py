# SPDX-License-Identifier: Apache-2.0
"""Collaborative attention: heads mix one shared query/key space."""

from typing import ClassVar

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from collab.attention import rope
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
LEGAL = {
  'bias': ('content', 'shared', 'none'),
  'mixing_init': tuple(MIXING),
  'mixing': ('real', 'complex'),
  'spectrum': (None, 'head', 'shared'),
}


class Collab(Attention, kw_only=True):
  """softmax((x Wq * m_h) (y Wk)^T / sqrt(d) + y c_h / sqrt(d)) z Wv_h.

  arXiv 2006.16362, section 3: Wq, Wk [D, k] are shared, and head h has a mixing
  row m_h [k]. c_h is the content bias: the part of MHA's query and key biases
  that the softmax does not cancel. d = qkv_features / H, independent of k.
  Parameters (no biases): 2 D k + H k + 2 D H d, and D H of content bias. Cache:
  k + H d scalars a token, and H more with content bias.

  Under rope, heads mix and then rotate: R_t (m_h * q + b_h) . R_s k. The cache
  has one rotated key. Mixing the key instead is another model, unless m_h is
  complex. A content bias is no bias of a key any more: it is that of a head's
  queries, b_h [k], so its parameters are H k, and the cache has k + H d. The
  shared key bias, which the softmax cancels, then has an effect. qk_norm is
  over all of k, before the mixing, so it is not MHA's, which is per head.

  Attributes:
    shared_dim: k.
    bias: 'content', 'shared' (query and key biases before the mixing) or
      'none'; use_bias=False removes them all.
    mixing_init: 'normal' (std 0.2), 'concatenate' (blocks of ones) or 'xavier'.
    mixing: 'real', or 'complex': m_h is k / 2 complex numbers, one for each
      plane of `spectrum`, with as many parameters. It commutes with rotation.
    spectrum: 'head' repeats the rates of rope in H blocks of k / H, so that
      concatenated heads are multi-head attention; 'shared' spreads one series
      of rates over k. By default 'head' where H divides k.
  """

  shared_dim: int
  bias: str = 'content'
  mixing_init: str = 'normal'
  mixing: str = 'real'
  spectrum: str | None = None

  takes = ('qk_norm', 'rope', 'value_dims')

  axes: ClassVar[dict] = {
    '(query|key)': 'dim -> width',
    'content_bias': 'dim -> heads',
    '(mixing|query_bias)': 'heads width',
    'value': 'dim -> heads width',
  }

  def heads(self, x, y, z, positions):
    H, K, V = self.num_heads, self.shared_dim, self.head_dim(x.shape[-1])
    self.check()
    shared = self.use_bias and self.bias == 'shared'
    content = self.use_bias and self.bias == 'content'
    q = self.project('query', x, K, use_bias=shared)
    k = self.project('key', y, K, use_bias=shared)
    q, k = self.normalize('query', q), self.normalize('key', k)
    key_bias = None
    if content and self.rope is None:
      key_bias = self.project('content_bias', y, H, use_bias=False) * V**-0.5
    q = self.mix(q[:, :, None])
    if content and self.rope is not None:
      q += self.vector('query_bias', self.bias_init, (H, K), q)[None, None]
    return Heads(
      q=self.rotate_blocks(q, positions.queries),
      k=self.rotate_blocks(k[:, :, None], positions.keys),
      v=self.values(z, V),
      key_bias=key_bias,
      scale=V**-0.5,
    )

  def check(self):
    for field, legal in LEGAL.items():
      if (got := getattr(self, field)) not in legal:
        raise ValueError(
          f'{field}={got!r} is none of {", ".join(map(str, legal))}.'
        )
    H, K = self.num_heads, self.shared_dim
    if K < 1:
      raise ValueError(f'shared_dim={K} must be at least 1.')
    if self.spectrum == 'head' and K % H:
      raise ValueError(
        f"num_heads={H} does not divide shared_dim={K}, as spectrum='head' "
        'needs.'
      )
    n = self.bands()
    if self.rope and self.rope.fraction == 1 and n > 1 and K // n % 2:
      raise ValueError(
        f'shared_dim={K} has {n} spectra of odd width {K // n}, and rope '
        "rotates planes; spectrum='shared' has one."
      )
    if self.mixing == 'complex' and (
      K // self.bands() % 2 or (self.rope and self.rope.fraction < 1)
    ):
      raise ValueError(
        "mixing='complex' multiplies whole planes: it needs an even width of "
        f'each block, got {K // self.bands()}, and rope with fraction=1.'
      )

  def bands(self):
    """Returns the number of blocks of k that have a whole spectrum each."""
    spectrum = self.spectrum or 'head'
    whole = self.shared_dim % self.num_heads == 0
    return self.num_heads if spectrum == 'head' and whole else 1

  def rotate_blocks(self, x, positions):
    """Rotates x [B, S, G, k], each block of k by the same rates."""
    if self.rope is None:
      return x
    (B, S, G, K), n = x.shape, self.bands()
    blocks = x.reshape(B, S, G * n, K // n)
    return self.rotate(blocks, positions).reshape(x.shape)

  def mix(self, q):
    """Computes m_h * q_t for all heads, [B, T, 1, k] -> [B, T, H, k]."""
    H, K = self.num_heads, self.shared_dim
    init = MIXING[self.mixing_init]
    if self.mixing == 'real':
      return q * self.vector('mixing', init, (H, K), q)[None, None]
    shape = H, self.bands(), K // self.bands()
    if self.mixing_init == 'concatenate':
      init = self.concatenate_complex
    m = self.vector('mixing', init, (H, K), q).reshape(1, 1, *shape)
    q = q.reshape(*q.shape[:3], *shape[1:])
    return rope.multiply(q, m).reshape(*q.shape[:2], H, K)

  def concatenate_complex(self, key, shape, dtype=jnp.float32):
    """Initialises complex mixing with blocks of 1 + 0i."""
    H, K = shape
    ones = concatenate(key, (H, K // 2), dtype).reshape(H, self.bands(), -1)
    return jnp.concatenate([ones, 0 * ones], -1).reshape(H, K)
