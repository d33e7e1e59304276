# SPDX-License-Identifier: Apache-2.0
"""Attention by cuDNN on NVIDIA GPUs, which keeps no score in memory.

JAX has two functions for it. jax.nn.dot_product_attention needs values as wide
as keys. The function that it calls is private, and called here alone (JAX 0.10
to 0.12 have it). It also takes narrower values, on Hopper and later with cuDNN
9.10. Elsewhere values are padded to the width of keys, which costs
multiplications.

The sliding window has not run on a GPU. Tests read it off the lowered program.
"""

import jax
from jax._src.cudnn import fused_attention_stablehlo as private
import jax.numpy as jnp

from collab.attention import features
from collab.attention.masks import Mask

HOPPER = (9, 0)
WINDOW_FROM = 90200  # the version of cuDNN


def version() -> int:
  """Returns cuDNN's version, e.g. 91002, or 0 where there is none."""
  try:
    return private.check_cudnn_version()
  except RuntimeError:
    return 0


def obstacle(
  K: int, V: int, capability: tuple[int, int], version: int
) -> str | None:
  """Returns why a GPU does not take these widths, or None."""
  if not version:
    return 'cuDNN is not installed'
  if capability < (8, 0):
    return f'the compute capability is {capability}, below (8, 0)'
  if capability == (10, 3) and version < 91100:
    return f'compute capability (10, 3) needs cuDNN 9.11, got {version}'
  most = 256 if capability >= HOPPER else 128
  if (width := _width(K, V)) > most:
    return f'keys with their bias and mask are {width} wide, over {most}'
  return None


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
  *,
  narrow: bool,
) -> tuple[jax.Array, jax.Array]:
  """Computes attention, zero for rows without keys.

  Args:
    q, k, v, key_bias, mask: see the module kernels; a window without padding or
      segments.
    narrow: whether this GPU takes values narrower than keys.

  Returns:
    o [B, T, H', V], with H' as in features.append, and alive.
  """
  T, (S, V) = q.shape[1], v.shape[1::2]
  q, k, v = features.append(q, k, v, key_bias, mask)
  K = _width(k.shape[3], V)
  q, k, v = _widen(q, K), _widen(k, K), _widen(v, _width(V, 0) if narrow else K)
  causal, window = mask is not None and mask.causal, mask and mask.window
  if v.shape[3] == K:
    before = None if window is None else (window - 1, 0)
    how = dict(is_causal=causal, local_window_size=before)
    o = jax.nn.dot_product_attention(
      q, k, v, scale=1.0, implementation='cudnn', **how
    )
  else:
    kind = private.MaskType.CAUSAL if causal else private.MaskType.NO_MASK
    how = dict(mask_type=kind, sliding_window_length=window)
    o = private.dot_product_attention(q, k, v, scale=1.0, **how)
  alive = features.alive(mask, T, S)[:, :, None, None]
  return jnp.where(alive, o[..., :V], 0), alive


def takes_narrow(capability: tuple[int, int], version: int) -> bool:
  """Returns whether a GPU takes values narrower than keys."""
  return capability >= HOPPER and version >= 91000


def _width(K, V):
  """The width of keys of K beside values of V: at least both, and by 8."""
  return -(-max(K, V) // 8) * 8


def _widen(x, width):
  return jnp.pad(x, [(0, 0)] * 3 + [(0, width - x.shape[3])])
