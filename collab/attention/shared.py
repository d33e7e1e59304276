# SPDX-License-Identifier: Apache-2.0
"""Attention of heads that share q, k and v, and differ by a bias of each key.

    o_h = softmax(q k^T + key_bias_h) v

As exp(s + b) = exp(s) exp(b), one matrix A of exponentials serves all heads:

    o_h = num_h / den_h,  num_h = A U_h,  den_h = A W_h
    A = exp(q k^T - row max),  W_h = exp(key_bias_h - max_s key_bias_h)
    U_sh = W_sh v_s

The maximum is over keys that at least one query may see, and W_h is 0 at the
others. This is safe while each head's bias spans at most SAFE_RANGE over these
keys. In each row A = 1 at the key of largest score, where W_h >= exp(-60). So
den_h >= exp(-60), which float32 can hold.

If one head of one example is beyond the range, each head of the whole call gets
a score matrix of its own. Both passes branch by `lax.cond`, on the same flag.
The cond is within the custom_vjp, so that a call saves its inputs, o and stats,
whichever branch ran.

Axes: B batch, G groups of heads (here 1), T queries (t in a block), S keys, H
heads, K key width, V value width, X = H V.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from collab.attention import block_math, blocks
from collab.attention.masks import Mask

SAFE_RANGE = 60.0


class Branches(NamedTuple):
  """How to run the block kernel of either branch."""

  shared: blocks.Options  # SHARED: one score matrix for all heads
  general: blocks.Options  # block_math.SOFTMAX: one for each head


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  branches: Branches,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array,
  mask: Mask | None,
  dropout_key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax(q k^T + key_bias_h) v, by the branch that is safe.

  Args:
    branches: Branches.
    q: [B, T, 1, K].
    k: [B, S, 1, K].
    v: [B, S, 1, V].
    key_bias: [B, S, H], float32 or float64.
    mask: masks.Mask that is the same for all heads, or None.
    dropout_key: random key, or None without dropout.

  Returns:
    o [B, T, H, V], and stats [B, T, H, 2]: the maximum of a row, inf if it has
    no keys, and its denominator. Those of the shared branch are of q k^T, and
    den_h; those of the general one are of q k^T + key_bias_h. They are for the
    backward pass and `alive` only, and have no gradient.
  """
  return _forward(branches, q, k, v, key_bias, mask, dropout_key)[0]


def _forward(branches, q, k, v, key_bias, mask, dropout_key):
  def run(options, layout):
    q_, keys = layout.to_kernel(mask, q, k, v, key_bias)
    o, stats = blocks.forward(options, q_, keys, mask, dropout_key)
    return layout.from_kernel(o.astype(v.dtype), stats)

  top, low, _ = _extent(key_bias, mask)
  safe = jnp.all(top - low <= SAFE_RANGE)
  o, stats = _either(safe, run, branches)
  return (o, stats), (safe, q, k, v, key_bias, mask, dropout_key, o, stats)


def _backward(branches, saved, cotangents):
  safe, q, k, v, key_bias, mask, dropout_key, o, stats = saved

  def run(options, layout):
    to_kernel = functools.partial(layout.to_kernel, mask)
    (q_, keys), pull = jax.vjp(to_kernel, q, k, v, key_bias)
    rows = layout.rows_to_kernel(o, stats, cotangents[0])
    return pull(blocks.backward(options, q_, keys, mask, dropout_key, *rows))

  # The mask and the key have no gradient.
  return *_either(safe, run, branches), None, None


attend.defvjp(_forward, _backward)


def _either(safe, run, branches):
  """Calls run(options, layout) for the branch that `safe` selects."""
  return lax.cond(
    safe,
    lambda: run(branches.shared, _SHARED),
    lambda: run(branches.general, _GENERAL),
  )


def _extent(key_bias, mask):
  """Returns the largest and the smallest bias of the keys that a query sees.

  They are [B, 1, H]. Third is which keys these are: bool [B|1, S|1, 1], or True
  for all.
  """
  seen = mask.visible() if mask else None
  seen = True if seen is None else seen[:, :, None]
  big = -block_math.MASKED
  top = jnp.max(key_bias, 1, keepdims=True, where=seen, initial=-big)
  low = jnp.min(key_bias, 1, keepdims=True, where=seen, initial=big)
  return top, low, seen


# How the two branches lay out arguments and results ---------------------------


class _Layout(NamedTuple):
  """Converts between the layouts of `attend` and of a branch's block kernel.

  to_kernel(mask, q, k, v, key_bias) gives the kernel's q [B, G|H, T, K] and
  keys, a tuple of [B, *, S, *]. from_kernel(o, stats) gives o and stats of
  `attend`. rows_to_kernel(o, stats, o_bar) is its inverse, for the backward
  pass; o_bar, the cotangent of o, is laid out like o.
  """

  to_kernel: Any
  from_kernel: Any
  rows_to_kernel: Any


def _shared_to_kernel(mask, q, k, v, key_bias):
  (B, S, _, V), H = v.shape, key_bias.shape[2]
  top, _, seen = _extent(key_bias, mask)
  # No gradient of top: it cancels in num / den.
  w = jnp.exp(jnp.where(seen, key_bias - lax.stop_gradient(top), -jnp.inf))
  u = (w[..., None] * v.astype(w.dtype)).reshape(B, 1, S, H * V)
  # exp(-60) underflows in float16, but not in bfloat16.
  dtype = block_math.with_range_of_float32(v.dtype)
  keys = k.swapaxes(1, 2), u.astype(dtype), w[:, None].astype(dtype)
  return q.swapaxes(1, 2), keys


def _shared_from_kernel(o, stats):
  (B, _, T, X), H = o.shape, stats.shape[3] - 1
  top = jnp.broadcast_to(stats[:, 0, :, :1], (B, T, H))
  return o.reshape(B, T, H, X // H), jnp.stack([top, stats[:, 0, :, 1:]], -1)


def _shared_rows_to_kernel(o, stats, o_bar):
  B, T, H, V = o.shape
  row = lambda x: x.reshape(B, 1, T, H * V)
  # All heads have the same maximum, see _shared_from_kernel.
  stats = jnp.concatenate([stats[:, :, :1, 0], stats[..., 1]], -1)
  return row(o), stats[:, None], row(o_bar)


def _general_to_kernel(mask, q, k, v, key_bias):
  # k and v stay one head, which block_math.SOFTMAX shares among those of q.
  q = jnp.repeat(q, key_bias.shape[2], 2)
  return q.swapaxes(1, 2), tuple(x.swapaxes(1, 2) for x in (k, v, key_bias))


def _general_swap(*rows):
  return tuple(x.swapaxes(1, 2) for x in rows)


_SHARED = _Layout(
  _shared_to_kernel, _shared_from_kernel, _shared_rows_to_kernel
)
_GENERAL = _Layout(_general_to_kernel, _general_swap, _general_swap)


# What happens to a block of queries -------------------------------------------
#
# As in blocks.Kernel. stats is [B, 1, t, 1 + H]: the maximum of a row, then the
# den_h. `keep` has the factors of dropout, 0 or 1 / (1 - rate).
# They act on num only: softmax, and so den, comes before dropout.


def _block_forward(q, keys, allowed, keep, options):
  (k, u, w), precision = keys, options.precision
  (B, _, t, _), H = q.shape, w.shape[3]
  s = block_math.scores(q, k, None, allowed, precision)
  top = s.max(-1, keepdims=True)
  a = jnp.exp(s - top)
  num = block_math.mix(a if keep is None else a * keep, u, precision)
  # Under vmap lax.cond runs both branches, and selects. Beyond SAFE_RANGE den
  # may be 0 here: keep o finite, which jax_debug_nans would stop at.
  den = jnp.maximum(
    block_math.mix(a, w, precision), jnp.finfo(jnp.float32).tiny
  )
  if allowed is not None:
    dead = ~allowed.any(-1, keepdims=True)
    num, den = jnp.where(dead, 0.0, num), jnp.where(dead, 1.0, den)
    # This marks the row, and makes its A zero in the backward pass.
    top = jnp.where(dead, jnp.inf, top)
  o = (num.reshape(B, 1, t, H, -1) / den[..., None]).reshape(num.shape)
  return o, jnp.concatenate([top, den], -1)


def _block_backward(q, o, stats, do, keys, allowed, keep, options):
  (k, u, w), precision = keys, options.precision
  (B, _, t, _), H = q.shape, w.shape[3]
  top, den = stats[..., :1], stats[..., 1:]
  a = jnp.exp(block_math.scores(q, k, None, allowed, precision) - top)
  do, o = (x.astype(den.dtype).reshape(B, 1, t, H, -1) for x in (do, o))
  # dnum = do / den, dden = -(do . o) / den; autodiff would form den^-2, which
  # overflows float32 at den = exp(-60).
  dnum = (do / den[..., None]).reshape(B, 1, t, -1).astype(u.dtype)
  dden = (-(do * o).sum(-1) / den).astype(w.dtype)
  da = block_math.matmul('bgtx,bgsx->bgts', dnum, u, precision)
  dropped = a
  if keep is not None:
    da, dropped = da * keep, a * keep
  da += block_math.matmul('bgth,bgsh->bgts', dden, w, precision)
  # ds is as small as the softmax weights, too small for float16.
  ds = (a * da).astype(block_math.with_range_of_float32(k.dtype))
  du = block_math.matmul_tn(dropped.astype(u.dtype), dnum, precision)
  dw = block_math.matmul_tn(a.astype(w.dtype), dden, precision)
  dk = block_math.matmul_tn(ds, q, precision)
  dq = block_math.matmul('bgts,bgsk->bgtk', ds, k, precision)
  return dq, (dk, du, dw)


SHARED = blocks.Kernel(_block_forward, _block_backward)
