# SPDX-License-Identifier: Apache-2.0
"""The kernel with one score matrix for all heads, which differ by a key bias.

    o_h = num_h / den_h,  num_h[t] = sum_s A_ts W_sh v_s,  den_h = A W_h
    A = exp(q k^T - row max),  W_h = exp(key_bias_h - max_s key_bias_h)

This is safe while each head's bias spans at most SAFE_RANGE over the keys that
some query may see: then every denominator is above exp(-60). A two-sided bound
with the range of the scores would not suffice, because a causal row may see few
keys. Beyond that range the heads are computed one by one. `lax.cond` decides in
both passes. Both branches save the same arrays between the passes, so neither
pays for the other.

Axes: B batch, T queries, S keys, H heads, K key width, V value width.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from collab.attention import block_math, blocks

SAFE_RANGE = 60.0


class Sides(NamedTuple):
  """The blocks.Options of the two branches."""

  shared: blocks.Options
  general: blocks.Options


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(sides, q, k, v, key_bias, mask, key):
  """Computes kernels.shared_scores.

  Returns:
    o [B, T, H, V], and stats [B, T, H, 2]: maximum (inf for a row without keys)
    and denominator.
  """
  return _forward(sides, q, k, v, key_bias, mask, key)[0]


def _forward(sides, q, k, v, key_bias, mask, key):
  def run(options, form):
    q_, keys = form.enter(mask, q, k, v, key_bias)
    o, stats = blocks.forward(options, q_, keys, mask, key)
    return form.leave(o.astype(v.dtype), stats)

  top, low, _ = _extent(key_bias, mask)
  safe = jnp.all(top - low <= SAFE_RANGE)
  o, stats = _either(safe, run, sides)
  return (o, stats), (safe, q, k, v, key_bias, mask, key, o, stats)


def _backward(sides, saved, gs):
  safe, q, k, v, key_bias, mask, key, o, stats = saved

  def run(options, form):
    enter = functools.partial(form.enter, mask)
    (q_, keys), pull = jax.vjp(enter, q, k, v, key_bias)
    rows = form.rows(o, stats, gs[0])
    return pull(blocks.backward(options, q_, keys, mask, key, *rows))

  return *_either(safe, run, sides), None, None


attend.defvjp(_forward, _backward)


def _either(safe, run, sides):
  """Calls run(options, form) for the branch that `safe` selects."""
  return lax.cond(
    safe,
    lambda: run(sides.shared, _WEIGHTED),
    lambda: run(sides.general, _EXPANDED),
  )


def _extent(key_bias, mask):
  """Returns the extreme biases [B, 1, H] of seen keys, and which are seen."""
  seen = mask.visible() if mask else None
  seen = True if seen is None else seen[:, :, None]
  big = -block_math.MASKED
  top = jnp.max(key_bias, 1, keepdims=True, where=seen, initial=-big)
  low = jnp.min(key_bias, 1, keepdims=True, where=seen, initial=big)
  return top, low, seen


# How arguments and results look to the two ways -------------------------------


class _Form(NamedTuple):
  """How a branch converts arguments and results.

  enter(mask, q, k, v, key_bias) gives q and keys for the block kernel.
  leave(o, stats) gives the results of `attend`. rows(o, stats, g) is its
  inverse.
  """

  enter: Any
  leave: Any
  rows: Any


def _weighted(mask, q, k, v, key_bias):
  (B, S, _, V), H = v.shape, key_bias.shape[2]
  top, _, seen = _extent(key_bias, mask)
  w = jnp.exp(jnp.where(seen, key_bias - lax.stop_gradient(top), -jnp.inf))
  u = (w[..., None] * v.astype(w.dtype)).reshape(B, 1, S, H * V)
  # exp(-60) underflows in float16, but not in bfloat16.
  dtype = block_math.with_range_of_float32(v.dtype)
  keys = k.swapaxes(1, 2), u.astype(dtype), w[:, None].astype(dtype)
  return q.swapaxes(1, 2), keys


def _weighted_leave(o, stats):
  (B, _, T, X), H = o.shape, stats.shape[3] - 1
  top = jnp.broadcast_to(stats[:, 0, :, :1], (B, T, H))
  return o.reshape(B, T, H, X // H), jnp.stack([top, stats[:, 0, :, 1:]], -1)


def _weighted_rows(o, stats, g):
  B, T, H, V = o.shape
  row = lambda x: x.reshape(B, 1, T, H * V)
  stats = jnp.concatenate([stats[:, :, :1, 0], stats[..., 1]], -1)
  return row(o), stats[:, None], row(g)


def _expanded(mask, q, k, v, key_bias):
  q = jnp.repeat(q, key_bias.shape[2], 2)
  return q.swapaxes(1, 2), tuple(x.swapaxes(1, 2) for x in (k, v, key_bias))


def _swapped(*rows):
  return tuple(x.swapaxes(1, 2) for x in rows)


_WEIGHTED = _Form(_weighted, _weighted_leave, _weighted_rows)
_EXPANDED = _Form(_expanded, _swapped, _swapped)


# What happens to a block of queries -------------------------------------------


def _block_forward(q, keys, allowed, keep, precision):
  k, u, w = keys
  (B, _, t, _), H = q.shape, w.shape[3]
  s = block_math.scores(q, k, None, allowed, precision)
  top = s.max(-1, keepdims=True)
  a = jnp.exp(s - top)
  num = block_math.mix(a if keep is None else a * keep, u, precision)
  # Under vmap both branches of the guard run, so this must stay finite.
  den = jnp.maximum(
    block_math.mix(a, w, precision), jnp.finfo(jnp.float32).tiny
  )
  if allowed is not None:
    dead = top <= block_math.MASKED  # false for NaN, which must come out
    num, den = jnp.where(dead, 0.0, num), jnp.where(dead, 1.0, den)
    top = jnp.where(dead, jnp.inf, top)
  o = (num.reshape(B, 1, t, H, -1) / den[..., None]).reshape(num.shape)
  return o, jnp.concatenate([top, den], -1)


def _block_backward(q, o, stats, g, keys, allowed, keep, precision):
  k, u, w = keys
  (B, _, t, _), H = q.shape, w.shape[3]
  top, den = stats[..., :1], stats[..., 1:]
  a = jnp.exp(block_math.scores(q, k, None, allowed, precision) - top)
  g, o = (x.astype(den.dtype).reshape(B, 1, t, H, -1) for x in (g, o))
  # d_num = g / den, d_den = -(g . o) / den. Autodiff would form den^-2.
  dnum = (g / den[..., None]).reshape(B, 1, t, -1).astype(u.dtype)
  dden = (-jnp.einsum('bgthv,bgthv->bgth', g, o) / den).astype(w.dtype)
  da = block_math.matmul('bgrx,bgsx->bgrs', dnum, u, precision)
  kept = a
  if keep is not None:
    da, kept = da * keep, a * keep
  da += block_math.matmul('bgrh,bgsh->bgrs', dden, w, precision)
  ds = (a * da).astype(block_math.with_range_of_float32(k.dtype))
  du = block_math.matmul_tn(kept.astype(u.dtype), dnum, precision)
  dw = block_math.matmul_tn(a.astype(w.dtype), dden, precision)
  dk = block_math.matmul_tn(ds, q, precision)
  dq = block_math.matmul('bgrs,bgsk->bgrk', ds, k, precision)
  return dq, (dk, du, dw)


SHARED = blocks.Kernel(_block_forward, _block_backward)
