# SPDX-License-Identifier: Apache-2.0
"""The attention kernels, softmax(q k^T) v, which compute what is shared once.

Axes: B batch, T queries, S keys, H heads, G groups that share (each divides
H; head h uses group h // (H / G)), K key width, V value width. Queries come
scaled, [B, T, Gq, K]; keys [B, S, Gk, K]; values [B, S, Gv, V]; key_bias
[B, S, H] is added to the scores of key s; mask is a masks.Mask or None.

  kernel          scores               memory       use
  grouped         [B, H, T, S]         T x S        weights per head are wanted
  blockwise       [B, H, block, S]     linear in T  any sharing
  shared_scores   [B, 1, block, S]     linear in T  heads differ by key_bias
  cudnn.attend    none                 linear in T  NVIDIA GPU
  splash.attend   none                 linear in T  TPU

`attend` takes the one that choice.choose names.

All kernels return the same: o [B, T, H, V], zero where a row has no key, and
alive, bool [B, T, H|1, 1], False for such rows. The heads of a group are folded
into the query axis, [B, G, H/G T, K] x [B, G, S, K]. So with one key head, all
heads of an example are a single matrix product.

No kernel but `grouped` has forward mode (jax.jvp).
"""

import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from collab.attention import (
  block_math,
  blocks,
  choice,
  cudnn,
  devices,
  dropout,
  shared,
  splash,
)
from collab.attention.masks import Mask
from collab.attention.target import target

# A prompt that is decoded sees a prefix of the keys.
PREFIXES = 8  # number of lengths
PREFIXES_FROM = 1024  # keys

# The choice -------------------------------------------------------------------


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
  H: int,
  *,
  key: jax.Array | None = None,
  rate: float = 0.0,
  decode: bool = False,
  **how: Any,
) -> tuple[jax.Array, jax.Array]:
  """Attends with the kernel that fits these shapes and this machine.

  Args:
    q, k, v, key_bias, mask: see the module.
    H: number of heads.
    key: random key, needed if there is dropout.
    rate: dropout rate of the weights.
    decode: whether the keys may be those of a cache.
    **how: precision of the matrix products, soft_cap of the scores (a bound,
      c tanh(s / c)), and implementation as in choice.choose.

  Returns:
    o [B, T, H, V] and alive.
  """
  if 0 in (*q.shape[:2], k.shape[1]):  # there are no queries, or no keys
    B, T, V = *q.shape[:2], v.shape[3]
    return jnp.zeros((B, T, H, V), v.dtype), jnp.zeros((1, 1, 1, 1), bool)
  run = _attend_to_prefix if decode else _attend
  run = functools.partial(run, rate=rate, **how)
  if devices.tensor() > 1:
    return devices.over_heads(run, q, k, v, key_bias, mask, key, H)
  run = functools.partial(run, H=H)
  spec = 'bthk,bshk,bshv,bsh->bthv,1111'
  return devices.auto(run, spec, (q, k, v, key_bias), mask, key)


def _attend_to_prefix(q, k, v, key_bias, mask, key, **how):
  """Attends to the keys up to the last that a query sees, found at run time.

  Of a cache that is nearly empty a prompt would otherwise read all places.
  Elsewhere it is not worth a program for each length, and their gradients.
  """
  S = k.shape[1]
  prompt = mask is not None and mask.causal and mask.q_positions is not None
  if not prompt or blocks.is_symbolic(q.shape[1], S):
    return _attend(q, k, v, key_bias, mask, key, **how)
  if q.shape[1] < choice.SHARED_FROM or S < PREFIXES_FROM:
    return _attend(q, k, v, key_bias, mask, key, **how)

  def attend(stop):
    keys = jax.tree.map(lambda x: x[:, :stop], (k, v, key_bias))
    return _attend(q, *keys, mask.prefix(stop), key, **how)

  stops = [S * i // PREFIXES for i in range(1, PREFIXES + 1)]
  needed = mask.q_positions.max() + 1
  i = jnp.minimum(jnp.sum(needed > jnp.asarray(stops)), PREFIXES - 1)
  return lax.switch(i, [functools.partial(attend, stop) for stop in stops])


def _attend(
  q,
  k,
  v,
  key_bias,
  mask,
  key,
  *,
  H,
  rate,
  precision=None,
  implementation=None,
  soft_cap=None,
):
  call = choice.Call(q, k, v, key_bias, mask, H, rate, soft_cap)
  machine = target()
  kernel = choice.choose(call, machine, implementation)
  how = dict(rate=rate, key=key, precision=precision)
  if kernel == 'shared':
    return shared_scores(q, k, v, key_bias, mask, **how)
  per_head = mask is not None and mask.per_head
  if per_head and key_bias is None:
    q = jnp.repeat(q, H // q.shape[2], 2)
  if kernel == 'cudnn':
    narrow = cudnn.takes_narrow(machine.capability, machine.cudnn)
    o, alive = cudnn.attend(q, k, v, key_bias, mask, narrow=narrow)
  elif kernel == 'splash':
    o, alive = splash.attend(q, k, v, key_bias, mask, soft_cap=soft_cap)
  else:
    how['soft_cap'] = soft_cap
    o, alive = blockwise(q, k, v, key_bias, mask, **how)
  if o.shape[2] < H:  # all heads are the same and were computed once
    o = jnp.repeat(o, H // o.shape[2], 2)
  return o, alive


# The kernels by name ----------------------------------------------------------


def grouped(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None = None,
  mask: Mask | None = None,
  *,
  rate: float = 0.0,
  key: jax.Array | None = None,
  precision: Any = None,
  soft_cap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Computes attention by the plain formula, differentiable in every mode.

  Args:
    q, k, v, key_bias, mask: see the module.
    rate: dropout rate of the weights; heads and examples share one pattern.
    key: random key, needed if rate > 0.
    precision: precision of the matrix products.
    soft_cap: bound of the scores.

  Returns:
    o and alive; see the module.
  """
  H = heads(q, k, v, key_bias)
  p, alive = weights(q, k, key_bias, mask, H, precision, soft_cap)
  return mix(drop(p, rate, key), v, precision), alive


def weights(
  q: jax.Array,
  k: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
  H: int,
  precision: Any = None,
  soft_cap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax_s(q_h . k_h + key_bias_h), zero for a row without keys.

  Returns:
    float32 [B, H, T, S], and alive.
  """

  def run(q, k, key_bias, mask):
    q, k, _, key_bias = _head_major(H, q, k, k, key_bias)
    allowed = mask and mask.block(0, q.shape[2], k.shape[2])
    how = precision, soft_cap
    p = jax.nn.softmax(block_math.scores(q, k, key_bias, allowed, *how))
    if allowed is None:
      return p, jnp.full((1, 1, 1, 1), k.shape[2] > 0)
    alive = allowed.any(-1, keepdims=True)
    return jnp.where(allowed, p, 0.0), alive.swapaxes(1, 2)

  return devices.auto(run, 'bthk,bshk,bsh->bhts,1111', (q, k, key_bias), mask)


def drop(
  p: jax.Array, rate: float, key: jax.Array | None, broadcast: bool = True
) -> jax.Array:
  """Drops weights [B, H, T, S] by one pattern for all B and H, or by each's."""
  if not rate:
    return p
  if broadcast:
    return p * blocks.keep_pairs(key, rate, 0, *p.shape[2:])
  kept = dropout.keep_rows(key, rate, p.shape)
  return jnp.where(kept, p / (1 - rate), 0.0)


def mix(p: jax.Array, v: jax.Array, precision: Any = None) -> jax.Array:
  """Computes weighted sums: [B, H, T, S], [B, S, G, V] -> [B, T, H, V]."""

  def run(p, v):
    o = block_math.mix(p, v.swapaxes(1, 2), precision)
    return (o.swapaxes(1, 2).astype(v.dtype),)

  return devices.auto(run, 'bhts,bshv->bthv', (p, v))[0]


def blockwise(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None = None,
  mask: Mask | None = None,
  *,
  key: jax.Array | None = None,
  **how: Any,
) -> tuple[jax.Array, jax.Array]:
  """As `grouped`, a block of queries at a time: memory linear in T.

  Args:
    q, k, v, key_bias, mask, key: as in `grouped`.
    **how: rate, precision, block and soft_cap, as in blocks.options.
  """
  (B, T), S, H = q.shape[:2], k.shape[1], heads(q, k, v, key_bias)
  options = blocks.options(block_math.SOFTMAX, B, T, H * S, **how)
  q, *keys = _head_major(H, q, k, v, key_bias)
  o, stats = blocks.attend(options, q, tuple(keys), mask, key)
  return o.swapaxes(1, 2), stats[..., :1].swapaxes(1, 2) != jnp.inf


def shared_scores(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array,
  mask: Mask | None = None,
  *,
  key: jax.Array | None = None,
  **how: Any,
) -> tuple[jax.Array, jax.Array]:
  """As `blockwise` where q, k and v are one head: one exponential for all.

  Half of MHA's arithmetic and 1/H of its exponentials. Exact while each head's
  bias spans at most shared.SAFE_RANGE over the keys that anybody may see;
  beyond that the heads are computed one by one, decided at run time.

  Args:
    q: [B, T, 1, K].  k: [B, S, 1, K].  v: [B, S, 1, V].  key_bias: [B, S, H].
    mask: the same for all heads.
    key, **how: as in `blockwise`, without soft_cap.
  """
  (B, T), (_, S, H) = q.shape[:2], key_bias.shape
  bias = key_bias.astype(block_math.at_least_float32(key_bias.dtype))
  general = blocks.options(block_math.SOFTMAX, B, T, H * S, **how)
  row_floats = S + 3 * H * v.shape[3]
  fast = blocks.options(shared.SHARED, B, T, row_floats, **how)
  branches = shared.Branches(fast, general)
  o, stats = shared.attend(branches, q, k, v, bias, mask, key)
  return o, stats[:, :, :1, :1] != jnp.inf


def heads(
  q: jax.Array, k: jax.Array, v: jax.Array, key_bias: jax.Array | None = None
) -> int:
  """H, the number of heads that come out."""
  return max(x.shape[2] for x in jax.tree.leaves((q, k, v, key_bias)))


def _head_major(H, q, k, v, key_bias):
  """-> q [B, H, T, K], k [B, Gk, S, K], v [B, Gv, S, V], key_bias [B, H, S]."""
  if q.shape[2] < H:
    q = jnp.repeat(q, H // q.shape[2], 2)
  return jax.tree.map(lambda x: x.swapaxes(1, 2), (q, k, v, key_bias))
