# SPDX-License-Identifier: Apache-2.0
"""The leaves of a state as a table: name, type, shape, checksum.

A table is what a checkpoint says of itself, and what two models differ in.
"""

import json

import jax
from jax import lax
import jax.numpy as jnp


def named(tree):
  """{'params/layer_0/kernel': leaf, ...}."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def shapes(tree):
  """{name: 'float32[64, 8]'} of anything with dtype and shape."""
  return {k: f'{x.dtype}{list(x.shape)}' for k, x in named(tree).items()}


def tree(shapes):
  """What `shapes` was made of, as nested dicts of ShapeDtypeStruct."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  found = {}
  for name, text in shapes.items():
    kind, _, shape = text.partition('[')
    *folders, last = name.split('/')
    place = found
    for folder in folders:
      place = place.setdefault(folder, {})
    place[last] = jax.ShapeDtypeStruct(
      tuple(json.loads('[' + shape)), kind, sharding=here
    )
  return found


def checksums(tree):
  """{name: checksum} of a tree of jax.Array."""
  # One at a time: more than 32 programs that communicate, started before the
  # first has ended, wait for each other for ever on XLA's simulated devices.
  return {k: int(checksum(x)) for k, x in named(tree).items()}


def not_finite(tree):
  """Names of the leaves of a tree of jax.Array that have a NaN or infinity."""
  return [k for k, x in named(jax.device_get(_finite(tree))).items() if not x]


@jax.jit
def _finite(tree):
  return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def some(names, most=8):
  """The first of many names, as text."""
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(map(str, names[:most])) + more


def differences(expected, found, most=8):
  """'a: expected float32[2], found none; ...' of two `shapes`, or ''."""
  keys = sorted(expected.keys() | found.keys())
  keys.sort(key=lambda k: not k.startswith('params/'))  # opt only repeats them
  parts = [
    f'{k}: expected {expected.get(k, "none")}, found {found.get(k, "none")}'
    for k in keys
    if expected.get(k) != found.get(k)
  ]
  if len(parts) > most:
    parts = [*parts[:most], f'and {len(parts) - most} more']
  return '; '.join(parts)


@jax.jit
def checksum(x):
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
