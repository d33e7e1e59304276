# SPDX-License-Identifier: Apache-2.0
"""Splits calls of kernels over devices, by heads and by examples.

XLA cannot partition a kernel by itself. Heads are split by jax.shard_map over
the axis `tensor` of the mesh. Examples are split by it, too, in training.
Elsewhere XLA is told that they are independent, and that no other axis may be
split.

Axes: B batch, T queries, S keys, H heads, G groups of heads.
"""

from collections.abc import Callable
import functools
import itertools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from collab.attention.masks import Mask

TENSOR = 'tensor'  # axis of the mesh that splits heads


def tensor() -> int:
  """Returns over how many devices XLA splits heads here.

  It is 1 outside of jax.shard_map over the other axes of the mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.shape[TENSOR] if TENSOR in mesh.auto_axes else 1


def whole(x: jax.Array) -> jax.Array:
  """Returns x, of which each device that splits heads has and gets all.

  Without it, XLA would also split what x is made from.
  """
  if tensor() == 1:
    return x
  return lax.with_sharding_constraint(x, PartitionSpec())


def auto(f: Callable, spec: str, arrays: tuple, *more: Any) -> tuple:
  """Runs f(*arrays, *more) with Auto mesh axes, where XLA decides on layouts.

  Folding heads into queries and splitting queries into blocks are reshapes for
  which Explicit mesh axes have no rule.

  Args:
    f: returns a tuple of arrays.
    spec: the axes of arrays and results as letters, as in einsum. An axis of a
      result is sharded like the axis of the arrays with the same letter.
    arrays, more: f's arguments.
  """
  mesh, axes = None, {}
  inputs, outputs = (side.split(',') for side in spec.split('->'))
  for letters, x in zip(inputs, arrays, strict=True):
    if x is not None and jax.typeof(x).sharding.mesh.explicit_axes:
      mesh, layout = jax.typeof(x).sharding.mesh, jax.typeof(x).sharding.spec
      for letter, axis in zip(letters, layout, strict=True):
        axes[letter] = axes.get(letter) or axis
  if mesh is None:
    return f(*arrays, *more)

  def sharding(letters):
    layout = []
    for axis in map(axes.get, letters):
      layout.append(None if axis in layout else axis)
    return NamedSharding(mesh, PartitionSpec(*layout))

  f = jax.sharding.auto_axes(
    f, axes=mesh.explicit_axes, out_sharding=tuple(map(sharding, outputs))
  )
  return f(*arrays, *more)


def over_heads(
  run: Callable,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_bias: jax.Array | None,
  mask: Mask | None,
  key: jax.Array | None,
  H: int,
) -> tuple[jax.Array, jax.Array]:
  """Runs a kernel on each device, for its own heads.

  Each device has whole what all heads share, and its gradients are added up
  over the devices. So they send dq and dk of one head, and no scores. Of G
  groups that the devices do not divide, a device takes those that its heads
  use.

  Args:
    run: kernels.attend with all further arguments but H.
    q, k, v, key_bias, mask: see the module kernels.
    key: random key or None.
    H: number of heads, a multiple of `tensor()`.

  Returns:
    o [B, T, H, V], and alive.
  """
  n, of_heads = tensor(), PartitionSpec(None, None, TENSOR)
  same = PartitionSpec()
  per_head = mask is not None and mask.per_head
  arrays = q, k, None if v is k else v, key_bias
  groups = jax.tree.map(lambda x: x.shape[2], arrays)

  def own(x, G):
    """Takes the groups that this device's heads use."""
    if G == 1 or G % n == 0:
      return x
    m = math.lcm(G, n)
    i = lax.axis_index(TENSOR) * (m // n)
    return lax.dynamic_slice_in_dim(jnp.repeat(x, m // G, 2), i, m // n, 2)

  def local(arrays, mask, key):
    q, k, v, key_bias = jax.tree.map(own, arrays, groups)
    v = k if v is None else v
    o, alive = run(q, k, v, key_bias, mask, key, H=H // n)
    if not per_head:
      return o, alive[:, :, :1]
    return o, jnp.broadcast_to(alive, (*alive.shape[:2], H // n, 1))

  split = lambda G: same if G % n else of_heads
  of_mask = jax.tree.map(lambda x: same, mask)
  if per_head:
    of_mask = of_mask.replace(dense=PartitionSpec(None, TENSOR))
  return jax.shard_map(
    local,
    axis_names={TENSOR},
    in_specs=(jax.tree.map(split, groups), of_mask, same),
    out_specs=(of_heads, of_heads if per_head else same),
    check_vma=False,
  )(arrays, mask, key)


def over_examples(run: Callable, whole: Any, *arguments: Any) -> Any:
  """Runs run(whole, *arguments) on each device, for its own examples.

  Args:
    run: function of `whole` and of arrays [B|1, ...]; returns a tree of
      [B, ...].
    whole: tree of arrays that every device gets whole.
    *arguments: the arrays.
  """
  results = jax.eval_shape(run, whole, *arguments)
  B = jax.tree.leaves(results)[0].shape[0]
  split = custom_partitioning(run)
  split.def_partition(
    functools.partial(_partition, run, B), **_rule(B, whole, arguments, results)
  )
  return split(whole, *arguments)


def _partition(run, B, mesh, arguments, results):
  examples = jax.tree.leaves(results)[0].sharding.spec[0]

  def sharding(x):
    spec = PartitionSpec(examples if x.shape[0] == B else None)
    return NamedSharding(mesh, spec)

  whole, *rest = arguments
  everywhere = NamedSharding(mesh, PartitionSpec())
  whole = jax.tree.map(lambda x: everywhere, whole)
  rest, results = jax.tree.map(sharding, (rest, results))
  return mesh, run, results, (whole, *rest)


def _rule(B, whole, arguments, results):
  """Writes Shardy's rule, 'x y, b z -> b w'; only b may be split."""
  number = itertools.count()

  def factors(x, first='b'):
    return ' '.join(
      first if first and axis == 0 and n == B else f'x{next(number)}'
      for axis, n in enumerate(x.shape)
    )

  inputs = [factors(x, None) for x in jax.tree.leaves(whole)]
  inputs += map(factors, jax.tree.leaves(arguments))
  outputs = map(factors, jax.tree.leaves(results))
  rule = f'{", ".join(inputs)} -> {", ".join(outputs)}'
  axes = tuple(f'x{i}' for i in range(next(number)))
  return dict(sharding_rule=rule, need_replication_factors=axes)
