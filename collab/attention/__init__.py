# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention and its parameter-efficient variants, for Flax linen.

  from collab import attention
  layer = attention.build('mhe_mul', num_heads=8)
  variables = layer.init(jax.random.key(0), x)      # x [B, T, D]
  y = layer.apply(variables, x, mask=attention.Mask(causal=True))

`names()` lists the variants. mha replaces
flax.linen.MultiHeadDotProductAttention; the docstrings of `Attention` and of
`fields.Fields`, its base, list what is not supported.
"""

from collab.attention.cache import Cache, cache_take
from collab.attention.core import Attention
from collab.attention.heads import Heads, Positions
from collab.attention.masks import Mask
from collab.attention.rope import Rope
from collab.attention.variants import build, names

__all__ = [
  'Attention',
  'Cache',
  'Heads',
  'Mask',
  'Positions',
  'Rope',
  'build',
  'cache_take',
  'names',
]
