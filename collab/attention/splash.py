# SPDX-License-Identifier: Apache-2.0
"""Splash attention on TPU: JAX's kernel, of which no score is ever in memory.

It takes several heads of queries to one of keys, values of another width than
keys, and segments. A key bias travels as columns of queries and keys, like for
cuDNN. Lengths are padded to the kernel's blocks, with keys in a segment of
their own. The kernel cannot be partitioned by XLA, so each device runs it for
its own examples.

It ran on no TPU: its values and gradients are tested in Pallas' interpreter,
and that it lowers for TPU.
"""

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as library
import jax.numpy as jnp

from collab.attention import columns, devices

LANES = 128
BLOCK = 512  # most queries, or keys, of a tile


def attend(q, k, v, key_bias, mask, *, interpret: bool = False):
  """Computes attention; arguments as in kernels.attend, q with all heads.

  Args:
    q, k, v, key_bias, mask: see the module kernels.
    interpret: whether to interpret the kernel, on any backend and slowly.

  Returns:
    o [B, T, H, V] and alive.
  """
  B, T, S, G = *q.shape[:2], k.shape[1], columns.groups(k, v)
  k, v = (jnp.repeat(x, G // x.shape[2], 2) for x in (k, v))
  q, k = columns.append(q, k, key_bias, None)
  q, k, v = (_lengthen(x.swapaxes(1, 2), 2) for x in (q, k, v))
  kernel = _kernel(mask is not None and mask.causal, interpret, q, k)
  run = _split if jax.device_count() > 1 else _run
  o = run(kernel, q, k, v, *_segments(mask, B, T, S))
  return o[:, :, :T].swapaxes(1, 2), columns.alive(mask, T, S)[:, :, None, None]


def _kernel(causal, interpret, q, k):
  """Makes JAX's kernel for q [B, H, T, K] and k [B, G, S, K]."""
  (H, T), S = q.shape[1:3], k.shape[2]
  kind = library.CausalMask if causal else library.FullMask
  t, s = _block(T), _block(S)
  blocks = dict(block_q=t, block_q_dkv=t, block_q_dq=t)
  blocks |= dict(block_kv=s, block_kv_dkv=s, block_kv_dq=s)
  return library.make_splash_mha(
    library.MultiHeadMask([kind((T, S))] * H),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
    block_sizes=library.BlockSizes(**blocks),
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
  """Runs forward again: what the kernel saves for backward is private."""
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
    of_query, of_key, found = columns.ranks(mask)
    of_query = jnp.where(found, of_query, -1)
  if mask is not None and mask.key_valid is not None:
    of_key = jnp.where(mask.key_valid, of_key, -2)
  padded = _lengthen(of_query, 1, -1), _lengthen(of_key, 1, -2)
  return tuple(
    jnp.broadcast_to(x.astype(jnp.int32), (B, x.shape[1])) for x in padded
  )


def _block(n):
  """Returns the largest block that divides a padded length."""
  return max(b for b in (LANES, 2 * LANES, BLOCK) if n % b == 0)


def _lengthen(x, axis, fill=0):
  """Pads an axis to a multiple of the lanes."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = 0, -x.shape[axis] % LANES
  return jnp.pad(x, pad, constant_values=fill)
