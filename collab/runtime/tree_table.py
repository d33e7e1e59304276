# SPDX-License-Identifier: Apache-2.0
"""The leaves of a state as a table: name, type, shape, checksum.

Checkpoints keep such a table, and the differences of two models come from two.
"""

from collections.abc import Collection, Sequence
import json
from typing import Any

from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp


def named(tree: Any) -> dict:
  """The leaves of a tree by name: {'params/layer_0/kernel': leaf, ...}."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def shapes(tree: Any) -> dict[str, str]:
  """{name: 'float32[64, 8]'} of leaves with a dtype and a shape."""
  return {k: f'{x.dtype}{list(x.shape)}' for k, x in named(tree).items()}


def tree(shapes: dict[str, str]) -> dict:
  """The inverse of `shapes`: nested dicts of ShapeDtypeStruct."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  leaves = {}
  for name, text in shapes.items():
    kind, _, shape = text.partition('[')
    shape = tuple(json.loads('[' + shape))
    leaves[name] = jax.ShapeDtypeStruct(shape, kind, sharding=here)
  return traverse_util.unflatten_dict(leaves, sep='/')


def checksums(tree: Any) -> dict[str, int]:
  """{name: checksum} of a tree of jax.Array."""
  # One at a time: more than 32 programs that communicate, started before the
  # first has ended, wait for each other for ever on XLA's simulated devices.
  return {k: int(checksum(x)) for k, x in named(tree).items()}


def not_finite(tree: Any) -> list[str]:
  """Names of the leaves of a tree of jax.Array that have a NaN or infinity."""
  return [k for k, x in named(jax.device_get(_finite(tree))).items() if not x]


@jax.jit
def _finite(tree):
  return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def join_names(names: Sequence, most: int = 8, between: str = ', ') -> str:
  """Joins names to a text, with `and n more` in place of those after `most`."""
  more = f'{between}and {len(names) - most} more' if len(names) > most else ''
  return between.join(map(str, names[:most])) + more


def differences(
  expected: dict, found: dict, names: Collection | None = None
) -> str:
  """'a: expected float32[2], found none; ...' of two `shapes`, or ''.

  Args:
    expected, found: what `shapes` gives.
    names: of the leaves to compare, all by default.
  """
  keys = sorted(expected.keys() | found.keys() if names is None else names)
  keys.sort(key=lambda k: not k.startswith('params/'))  # opt only repeats them
  parts = [
    f'{k}: expected {expected.get(k, "none")}, found {found.get(k, "none")}'
    for k in keys
    if expected.get(k) != found.get(k)
  ]
  return join_names(parts, between='; ')


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
  """sum_i mix(bits(x_i) xor mix(i)) mod 2^32, mix the finaliser of MurmurHash3.

  Any change of one element changes it, others do with probability 1 - 2^-32.
  Unlike a CRC it is a sum: devices and hosts add up the parts that they hold,
  whatever the sharding, and nothing is gathered or copied to a host.

  Args:
    x: array of any shape, of bool or a type of 8, 16, 32 or 64 bits.

  Returns:
    uint32 [].
  """
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  width = min(8 * x.dtype.itemsize, 32)  # of 64 bits: two words, on a new axis
  bits = lax.bitcast_convert_type(x, f'uint{width}').astype(jnp.uint32)
  i, stride = jnp.zeros(bits.shape, jnp.uint32), 1
  for axis in reversed(range(bits.ndim)):
    index = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    i += index * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  return jnp.sum(_mix(bits ^ _mix(i)), dtype=jnp.uint32)


def _mix(h):
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)
