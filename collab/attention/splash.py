# SPDX-License-Identifier: Apache-2.0
"""Splash attention on TPU: JAX's kernel, which keeps no score in memory.

It takes several heads of queries to one of keys, values of another width than
keys, and segments. A key bias travels as features of queries and keys. Lengths
are padded to the kernel's tiles, with keys in a segment of their own. XLA
cannot partition the kernel, so each device runs it for its own examples.

The kernel has not run on a TPU. Tests run it in Pallas' interpreter, and lower
it for TPU.
"""

import math

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as library
import jax.numpy as jnp

from collab.attention import devices, features
from collab.attention.masks import Mask

LANES = 128
TILE = 512  # most queries, or keys, of a tile


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
  *,
  soft_cap: float | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Computes attention, zero for rows without keys.

  Args:
    q, k, v, key_bias, mask: see the module kernels.
    soft_cap: bound of the scores.
    interpret: whether to interpret the kernel, on any backend and slowly.

  Returns:
    o [B, T, H', V], with H' as in features.append, and alive.
  """
  B, T, S = *q.shape[:2], k.shape[1]
  arrays = features.append(q, k, v, key_bias, None)
  q, k, v = (_lengthen(x.swapaxes(1, 2), 2) for x in arrays)
  kernel = _kernel(mask, soft_cap, interpret, q, k)
  # In jax.shard_map each device has only its own examples.
  alone = (
    jax.device_count() == 1 or jax.sharding.get_abstract_mesh().manual_axes
  )
  run = _run if alone else _split
  o = run(kernel, q, k, v, *_segments(mask, B, T, S))
  alive = features.alive(mask, T, S)[:, :, None, None]
  return jnp.where(alive, o[:, :, :T].swapaxes(1, 2), 0), alive


def _kernel(mask, soft_cap, interpret, q, k):
  """Makes JAX's kernel for q [B, H, T, K] and k [B, G, S, K]."""
  (H, T), S = q.shape[1:3], k.shape[2]
  pairs = library.FullMask((T, S))
  if mask is not None and mask.window is not None:
    pairs = library.LocalMask((T, S), (mask.window - 1, 0), 0)
  elif mask is not None and mask.causal:
    pairs = library.CausalMask((T, S))
  t, s = math.gcd(T, TILE), math.gcd(S, TILE)
  tiles = dict(block_q=t, block_q_dkv=t, block_q_dq=t)
  tiles |= dict(block_kv=s, block_kv_dkv=s, block_kv_dq=s)
  return library.make_splash_mha(
    library.MultiHeadMask([pairs] * H),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=soft_cap,
    interpret=interpret,
    block_sizes=library.BlockSizes(**tiles),
  )


def _run(kernel, q, k, v, *segments):
  """Runs the kernel on [B, H, T, K], [B, G, S, K] and [B, G, S, V]."""
  return jax.vmap(kernel)(q, k, v, library.SegmentIds(*segments))


@jax.custom_vjp
def _split(*arguments):
  """Does what _run does, each device for its examples."""
  return devices.over_examples(_run, *arguments)


def _split_forward(*arguments):
  return _split(*arguments), arguments


def _split_backward(arguments, do):
  """Runs forward again, because what the kernel saves for it is private."""
  kernel, *arrays = arguments

  def gradients(kernel, do, q, k, v, *segments):
    run = lambda q, k, v: _run(kernel, q, k, v, *segments)
    return jax.vjp(run, q, k, v)[1](do)

  return (
    None,
    *devices.over_examples(gradients, kernel, do, *arrays),
    None,
    None,
  )


_split.defvjp(_split_forward, _split_backward)


def _segments(mask, B, T, S):
  """Numbers the segments of queries and keys, padded: int32 [B, T'], [B, S'].

  Queries that see no key are in segment -1, invalid keys and padding in -2.
  """
  of_query, of_key = jnp.zeros((1, T), int), jnp.zeros((1, S), int)
  if mask is not None and mask.q_segments is not None:
    of_query, of_key, found = features.numbered(mask)
    of_query = jnp.where(found, of_query, -1)
  if mask is not None and mask.key_valid is not None:
    of_key = jnp.where(mask.key_valid, of_key, -2)
  padded = _lengthen(of_query, 1, -1), _lengthen(of_key, 1, -2)
  return tuple(
    jnp.broadcast_to(x.astype(jnp.int32), (B, x.shape[1])) for x in padded
  )


def _lengthen(x, axis, fill=0):
  """Pads an axis to a multiple of the lanes."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = 0, -x.shape[axis] % LANES
  return jnp.pad(x, pad, constant_values=fill)
