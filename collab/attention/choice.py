# SPDX-License-Identifier: Apache-2.0
"""Chooses the kernel of a call from its shapes, its mask and the machine.

  kernel   machine      takes
  shared   any          one head of queries, keys and values with a key bias,
                        without soft cap
  cudnn    NVIDIA GPU   bfloat16 and float16, without dropout
  splash   TPU          bfloat16, without dropout
  blocks   any          everything

The first of these that takes the call computes it.

`shared` computes one exponential for all heads, and half the multiplications of
`blocks`. An element of its one matrix of scores serves all heads, 420 FLOPs a
byte with 12 heads of 64: enough for XLA to be bound by arithmetic, so it comes
first on every machine. Both compute a block of queries at a time (blocks.py).

`cudnn` and `splash` keep no score in memory. They take no mask of size T x S,
no positions of queries, no symbolic sizes (jax.export), and no short calls.
Both have a sliding window of their own, and take none together with padding or
segments, because nothing tells cheaply which rows then see no key. Splash also
has a soft cap. They have no second derivatives, and JAX's rules for them under
jax.vmap are few: implementation='xla' does without. Dropout is not theirs,
because its pattern would depend on the kernel, and in cuDNN's be the same in
every step. The precision of matrix products does not concern them, as inputs
have 16 bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from collab.attention import blocks, cudnn, features
from collab.attention.masks import Mask
from collab.attention.target import Target

SHARED_FROM = 8  # queries; fewer do not repay H weighted copies of the values
FUSED_FROM = 64  # queries and keys; the scores of fewer fit into a cache


class Call(NamedTuple):
  """The arguments of kernels.attend, or jax.ShapeDtypeStruct in their place."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  key_bias: jax.Array | None
  mask: Mask | None
  H: int
  rate: float
  soft_cap: float | None = None


def choose(
  call: Call, machine: Target, implementation: str | None = None
) -> str:
  """Chooses 'cudnn', 'splash', 'shared' or 'blocks'.

  Args:
    call: Call.
    machine: Target.
    implementation: None, or 'xla', 'cudnn' or 'splash', which has to take it.

  Raises:
    ValueError: the implementation does not take the call.
  """
  obstacles = dict(cudnn=_not_cudnn, splash=_not_splash)
  if implementation in obstacles:
    if why := obstacles[implementation](call, machine):
      raise ValueError(
        f'implementation={implementation!r} does not take this call: {why}.'
      )
    return implementation
  if _is_shared(call):
    return 'shared'
  if implementation is None:
    for kernel, obstacle in obstacles.items():
      if obstacle(call, machine) is None:
        return kernel
  return 'blocks'


def check_plain(implementation: str | None) -> None:
  """Refuses an implementation where the weights themselves are needed.

  Raises:
    ValueError: it is one that has no weights in memory.
  """
  if implementation not in (None, 'xla'):
    raise ValueError(
      f'implementation={implementation!r} keeps no weights, which sow_weights '
      'and broadcast_dropout=False need.'
    )


def _is_shared(call):
  q, k, v, key_bias, mask, *_ = call
  if call.soft_cap is not None:  # bounds each head's scores, with their bias
    return False
  many = blocks.is_symbolic(q.shape[1]) or q.shape[1] >= SHARED_FROM
  one = q.shape[2] == k.shape[2] == v.shape[2] == 1
  per_head = mask is not None and mask.per_head
  return key_bias is not None and one and many and not per_head


def _not_fused(call):
  """Returns why neither fused kernel takes the call, or None."""
  q, k, v, key_bias, mask, _, rate, _ = call
  if blocks.is_symbolic(*q.shape, *k.shape):
    return 'its sizes are symbolic'
  if rate:
    return 'its weights are dropped'
  if mask is not None and mask.dense is not None:
    return 'its mask is an array of queries and keys'
  if mask is not None and mask.q_positions is not None:
    return 'its mask has positions of queries'
  if mask is not None and mask.offset:
    return 'its queries begin at a later key'
  if mask is not None and mask.window is not None and jax.tree.leaves(mask):
    return 'its mask has a window with padding or segments'
  if min(q.shape[1], k.shape[1]) < FUSED_FROM:
    return f'it has fewer than {FUSED_FROM} queries or keys'
  dtypes = {x.dtype for x in (q, k, v, key_bias) if x is not None}
  if len(dtypes) > 1:
    return 'its arrays have several dtypes'
  return None


def _not_cudnn(call, machine):
  """Returns why cuDNN does not take the call, or None."""
  if machine.platform != 'cuda':
    return f'the platform is {machine.platform}, not cuda'
  if why := _not_fused(call):
    return why
  q, k, v, key_bias, mask, *_ = call
  if q.dtype not in (jnp.bfloat16, jnp.float16):
    return f'its dtype is {q.dtype}, neither bfloat16 nor float16'
  if call.soft_cap is not None:
    return 'its scores have a soft cap'
  if mask is not None and mask.causal and q.shape[1] != k.shape[1]:
    return 'it is causal with other numbers of queries and keys'
  window = mask is not None and mask.window is not None
  if window and machine.cudnn < cudnn.WINDOW_FROM:
    return f'its mask has a window, which needs cuDNN 9.2, got {machine.cudnn}'
  _, wide, _ = jax.eval_shape(features.append, q, k, v, key_bias, mask)
  return cudnn.obstacle(
    wide.shape[3], v.shape[3], machine.capability, machine.cudnn
  )


def _not_splash(call, machine):
  """Returns why splash attention does not take the call, or None."""
  if machine.platform != 'tpu':
    return f'the platform is {machine.platform}, not tpu'
  if why := _not_fused(call):
    return why
  if call.q.dtype != jnp.bfloat16:
    return f'its dtype is {call.q.dtype}, not bfloat16'
  window = call.mask is not None and call.mask.window is not None
  if window and call.q.shape[1] > call.k.shape[1]:
    return 'its mask has a window and more queries than keys'
  return None
