# SPDX-License-Identifier: Apache-2.0
"""Describes the leaves of a state as a table: name, type, shape, checksum.

Checkpoints keep such a table. Comparing two tables shows how two models differ.
"""

from collections.abc import Collection, Sequence
import json
from typing import Any

from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp


def named(tree: Any) -> dict:
  """Flattens a tree to {'params/layer_0/kernel': leaf, ...}."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def shapes(tree: Any) -> dict[str, str]:
  """Returns {name: 'float32[64, 8]'} of leaves with a dtype and a shape."""
  return {k: f'{x.dtype}{list(x.shape)}' for k, x in named(tree).items()}


def tree(shapes: dict[str, str]) -> dict:
  """Inverts `shapes`: nested dicts of ShapeDtypeStruct."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  leaves = {}
  for name, text in shapes.items():
    kind, _, shape = text.partition('[')
    shape = tuple(json.loads('[' + shape))
    leaves[name] = jax.ShapeDtypeStruct(shape, kind, sharding=here)
  return traverse_util.unflatten_dict(leaves, sep='/')


def checksums(tree: Any) -> dict[str, int]:
  """Computes {name: checksum} of a tree of jax.Array."""
  # One at a time: on XLA's simulated devices, more than 32 communicating
  # programs deadlock if they start before the first has ended.
  return {k: int(checksum(x)) for k, x in named(tree).items()}


def not_finite(tree: Any) -> list[str]:
  """Lists the leaves of a tree of jax.Array that have a NaN or infinity."""
  return [k for k, x in named(jax.device_get(_finite(tree))).items() if not x]


@jax.jit
def _finite(tree):
  return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def join_names(names: Sequence, most: int = 8, between: str = ', ') -> str:
  """Joins names to a text, replacing those after `most` by `and n more`."""
  more = f'{between}and {len(names) - most} more' if len(names) > most else ''
  return between.join(map(str, names[:most])) + more


def differences(
  expected: dict, found: dict, names: Collection | None = None
) -> str:
  """Describes how `shapes` differ: 'a: expected float32[2], found none; ...'.

  Args:
    expected, found: results of `shapes`.
    names: leaves to compare, all by default.

  Returns:
    The text, '' if they are equal.
  """
  keys = sorted(expected.keys() | found.keys() if names is None else names)
  keys.sort(key=lambda k: not k.startswith('params/'))  # opt repeats them
  parts = [
    f'{k}: expected {expected.get(k, "none")}, found {found.get(k, "none")}'
    for k in keys
    if expected.get(k) != found.get(k)
  ]
  return join_names(parts, between='; ')


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
  """Computes sum_i mix(bits(x_i) xor mix(i)) mod 2^32, mix of MurmurHash3.

  mix is the finaliser of MurmurHash3. Any change of one element changes the
  checksum; other changes do so with probability 1 - 2^-32. Unlike a CRC it is a
  sum, so devices and hosts add up their own parts, whatever the sharding, and
  nothing is gathered or copied to a host.

  Args:
    x: array of any shape, of bool or a type of 8, 16, 32 or 64 bits.

  Returns:
    uint32 [].
  """
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  width = min(8 * x.dtype.itemsize, 32)  # 64 bits are two words on a new axis
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
