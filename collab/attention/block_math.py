# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the kernels for one block of queries, forward and backward.

Axes: B batch, t queries of the block, S keys, H heads, G groups of heads, K key
width, V value width. The layout is head-major: [B, H, t, K] and [B, G, S, K].
Every product folds the heads of a group into the query axis.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collab.attention import blocks

MASKED = float(jnp.finfo(jnp.float32).min)


def scores(
  q: jax.Array,
  k: jax.Array,
  key_bias: jax.Array | None,
  allowed: jax.Array | None,
  precision: Any,
  soft_cap: float | None = None,
) -> jax.Array:
  """Computes scores: [B, H, t, K], [B, G, S, K] -> float32 [B, H, t, S]."""
  s = raw_scores(q, k, key_bias, precision)
  if soft_cap is not None:
    s = soft_cap * jnp.tanh(s / soft_cap)
  return hide(s, allowed)


def raw_scores(
  q: jax.Array, k: jax.Array, key_bias: jax.Array | None, precision: Any
) -> jax.Array:
  """Computes scores without soft cap or mask."""
  B, H, t, K = q.shape
  G, S = k.shape[1:3]
  q = q.reshape(B, G, H // G * t, K)
  s = matmul('bgrk,bgsk->bgrs', q, k, precision).reshape(B, H, t, S)
  if key_bias is not None:
    s += key_bias[:, :, None, :].astype(s.dtype)
  return s


def hide(s: jax.Array, allowed: jax.Array | None) -> jax.Array:
  """Hides the scores of pairs that are not allowed."""
  if allowed is None:
    return s
  # -inf, so that a row whose own scores are all -inf, by an overflow, is NaN as
  # without a mask. A row without keys is finite, for its gradient.
  masked = jnp.where(allowed.any(-1, keepdims=True), -jnp.inf, MASKED)
  return jnp.where(allowed, s, masked)


def mix(p: jax.Array, v: jax.Array, precision: Any) -> jax.Array:
  """Mixes values: [B, H, t, S], [B, G, S, V] -> float32 [B, H, t, V]."""
  B, H, t, S = p.shape
  G, V = v.shape[1], v.shape[3]
  p = p.astype(v.dtype).reshape(B, G, H // G * t, S)
  return matmul('bgrs,bgsv->bgrv', p, v, precision).reshape(B, H, t, V)


def matmul(spec: str, x: jax.Array, y: jax.Array, precision: Any) -> jax.Array:
  """Computes an einsum that accumulates in at least float32."""
  total = np.promote_types(at_least_float32(x.dtype), at_least_float32(y.dtype))
  if x.dtype != y.dtype:
    x, y = x.astype(total), y.astype(total)
  return jnp.einsum(
    spec, x, y, precision=precision, preferred_element_type=total
  )


def at_least_float32(dtype: Any) -> np.dtype:
  """Returns float64 for float64, else float32, also under strict promotion."""
  return np.promote_types(dtype, np.float32)


def with_range_of_float32(dtype: Any) -> np.dtype:
  """Returns the dtype, but float32 for float16.

  The smallest positive float16 is 6e-8.
  """
  return jnp.dtype(jnp.float32 if dtype == jnp.float16 else dtype)


def matmul_tn(x: jax.Array, y: jax.Array, precision: Any) -> jax.Array:
  """x^T y over rows, [B, G, r, S], [B, G, r, X] -> float32 [B, G, S, X].

  XLA's CPU backend computes y^T x up to 4 times faster for the narrow y here.
  """
  return matmul('bgrs,bgrx->bgxs', x, y, precision).swapaxes(2, 3)


# What `blockwise` does to a block of queries ----------------------------------


def _softmax_forward(q, keys, allowed, keep, options):
  (k, v, key_bias), precision = keys, options.precision
  s = scores(q, k, key_bias, allowed, precision, options.soft_cap)
  top = s.max(-1, keepdims=True)
  e = jnp.exp(s - top)
  den = e.sum(-1, keepdims=True)
  o = mix(e if keep is None else e * keep, v, precision) / den
  if allowed is not None:
    dead = ~allowed.any(-1, keepdims=True)
    o, top = jnp.where(dead, 0.0, o), jnp.where(dead, jnp.inf, top)
  # log(den) + top would lose three digits of den next to a score of 10^4.
  return o.astype(v.dtype), jnp.concatenate([top, den], -1)


def _softmax_backward(q, o, stats, g, keys, allowed, keep, options):
  (k, v, key_bias), precision = keys, options.precision
  (B, Gk, S, K), (Gv, V) = k.shape, (v.shape[1], v.shape[3])
  top, den = stats[..., :1], stats[..., 1:]
  s, cap = raw_scores(q, k, key_bias, precision), options.soft_cap
  if cap is not None:
    share = jnp.tanh(s / cap)
    s = cap * share
  # Dividing e instead of g, whose rows are shorter, takes 15 % more time.
  e = jnp.exp(hide(s, allowed) - top)
  g = g.astype(den.dtype) / den
  delta = (g * o.astype(den.dtype)).sum(-1, keepdims=True)
  # g / den may be too small for float16.
  g = g.astype(with_range_of_float32(v.dtype)).reshape(B, Gv, -1, V)
  dp = matmul('bgrv,bgsv->bgrs', g, v, precision).reshape(e.shape)
  kept = e
  if keep is not None:
    dp, kept = dp * keep, e * keep
  ds = e * (dp - delta)
  if cap is not None:
    ds *= 1 - share**2
  dbias = None if key_bias is None else ds.sum(2)
  kept = kept.astype(v.dtype).reshape(B, Gv, -1, S)
  ds = ds.astype(with_range_of_float32(k.dtype)).reshape(B, Gk, -1, S)
  dv = matmul_tn(kept, g, precision)
  dk = matmul_tn(ds, q.reshape(B, Gk, -1, K), precision)
  dq = matmul('bgrs,bgsk->bgrk', ds, k, precision).reshape(q.shape)
  return dq, (dk, dv, dbias)


SOFTMAX = blocks.Kernel(_softmax_forward, _softmax_backward)
