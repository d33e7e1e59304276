# SPDX-License-Identifier: Apache-2.0
"""Linformer: keys and values are projected over the length."""

from typing import ClassVar

import jax.numpy as jnp

from collab.attention.core import Attention
from collab.attention.heads import Heads


class Linformer(Attention, kw_only=True):
  """softmax(x Wq_h (E^T y Wk_h)^T / sqrt(d)) F^T z Wv_h, for sequences.

  arXiv 2006.04768, with one E and one F [n, p] for all heads. Queries see p
  mixtures of keys, so time and memory grow with the length and not its square.
  A mixture has tokens of all places: there are no causal masks and no decoding,
  and a mask may only have key_valid, whose hidden tokens count as zeros.
  Shorter sequences have the first rows of E and F.
  Parameters (no biases): 4 D H d + 2 n p. It has no cache.

  Attributes:
    length: n, the greatest number of keys.
    projected_length: p.
  """

  length: int
  projected_length: int

  mixes_tokens = True
  axes: ClassVar[dict] = {
    '(query|key|value)': 'dim -> heads width',
    '(key|value)_length': 'tokens width',
  }

  def heads(self, x, y, z, positions):
    H, K, n = self.num_heads, self.head_dim(x.shape[-1]), self.length
    if n < 1 or self.projected_length < 1:
      raise ValueError(
        f'length={n} and projected_length={self.projected_length} must be at '
        'least 1.'
      )
    if y.shape[1] > n:
      raise ValueError(f'length={n} is too short for {y.shape[1]} keys.')
    return Heads(
      q=self.project('query', x, (H, K)),
      k=self.project('key', y, (H, K)),
      v=self.project('value', z, (H, K)),
    )

  def read(self, h, positions):
    return h._replace(k=self.shorten('key', h.k), v=self.shorten('value', h.v))

  def shorten(self, name, x):
    """Mixes tokens, [B, S, H, K] -> [B, p, H, K]."""
    shape = self.length, self.projected_length
    kernel = self.vector(f'{name}_length', self.kernel_init, shape, x)
    kernel = kernel[: x.shape[1]]
    return jnp.einsum('bshk,sp->bphk', x, kernel, precision=self.precision)
