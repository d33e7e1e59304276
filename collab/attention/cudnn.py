# SPDX-License-Identifier: Apache-2.0
"""Attention by cuDNN on NVIDIA GPUs, of which no score is ever in memory.

JAX has two ways to it. jax.nn.dot_product_attention wants values as wide as
keys. The function behind it also takes narrower values, on Hopper and later
with cuDNN 9.10 (multi-head latent attention needs that), but is private: it is
called here alone, as it is in JAX 0.10 to 0.12. Elsewhere values are padded to
the width of keys, which costs as many products as if they were so wide.

On an H200 (JAX 0.11, cuDNN 9.19), columns of keys up to 128 cost no time beside
values of 64: 12 heads of 2,048 tokens took 0.18 ms with keys of 80 and of 128.
"""

import jax
from jax._src.cudnn import fused_attention_stablehlo as private
import jax.numpy as jnp

from collab.attention import columns

HOPPER = (9, 0)


def version() -> int:
  """Returns cuDNN's version, e.g. 91002, or 0 where there is none."""
  try:
    return private.check_cudnn_version()
  except RuntimeError:
    return 0


def width(K: int, V: int) -> int:
  """Returns the width that keys of K get beside values of V: both, by 8."""
  return -(-max(K, V) // 8) * 8


def widest(capability: tuple[int, int]) -> int:
  """Returns the largest width of keys on a GPU of this capability."""
  return 256 if capability >= HOPPER else 128


def attend(q, k, v, key_bias, mask, machine):
  """Computes attention; arguments as in kernels.attend, q with all heads.

  Args:
    q, k, v, key_bias, mask: see the module kernels.
    machine: target.Target.

  Returns:
    o [B, T, H, V] and alive.
  """
  (S, V), G = v.shape[1::2], columns.groups(k, v)
  k, v = (jnp.repeat(x, G // x.shape[2], 2) for x in (k, v))
  q, k = columns.append(q, k, key_bias, mask)
  K = width(k.shape[3], V)
  q, k = _widen(q, K), _widen(k, K)
  narrow = machine.capability >= HOPPER and machine.cudnn >= 91000
  v = _widen(v, width(V, 0) if narrow else K)
  causal = mask is not None and mask.causal
  if v.shape[3] == K:
    o = jax.nn.dot_product_attention(
      q, k, v, scale=1.0, is_causal=causal, implementation='cudnn'
    )
  else:
    kinds = private.MaskType
    o = private.dot_product_attention(
      q, k, v, scale=1.0, mask_type=kinds.CAUSAL if causal else kinds.NO_MASK
    )
  return o[..., :V], columns.alive(mask, q.shape[1], S)[:, :, None, None]


def _widen(x, width):
  return jnp.pad(x, [(0, 0)] * 3 + [(0, width - x.shape[3])])
