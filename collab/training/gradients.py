# SPDX-License-Identifier: Apache-2.0
"""Computes gradients of a batch, at once or in several micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from collab.models import split


def accumulate(
  loss: Callable, mesh: jax.sharding.Mesh, specs: Any, n: int = 1
) -> Callable:
  """Makes a function that computes the gradient of a mean over a batch.

    L = sum_i s_i / sum_i w_i;  dL/dp = (sum_i ds_i/dp) / sum_i w_i

  It is exact for any weights w_i (NaN if all are zero). Each device computes
  with its own rows alone, in a scan over n micro-batches; micro-batch i takes
  the rows i, i + n, ... A parameter that is split is gathered where it is used,
  see split.py, and there each micro-batch adds up the gradient over `fsdp`, for
  the part that a device keeps. Over `data`, and of what is not split, the
  gradient is added up once, at the end. Sums are at least float32, but those
  over `fsdp` have the dtype of the gathered parameter. By `tensor` XLA splits
  each device's program, see models/axes.py.

  Args:
    loss: (params, batch, key) -> (s, (w, aux)) with scalars s and w, w
      independent of params, and aux a dict of sums over the rows that it gets.
      Of params it gets split.Split where they are split.
    mesh: of sharding.make_mesh.
    specs: tree of the parameters' PartitionSpec.
    n: number of micro-batches.

  Returns:
    A function of params, batch (a tree of [B, ...]) and a random key, like
    jax.value_and_grad: (L, (sum_i w_i, sum_i aux_i)), dL/dp. Micro-batch i gets
    fold_in(key, i), unless n = 1. It raises a ValueError if n does not divide
    the rows of a device.
  """
  leaves, axes = jax.tree.leaves(specs), split.manual(mesh)
  several = [axis for axis in axes if mesh.shape[axis] > 1]
  of_data = [axis for axis in several if axis != split.AXIS]

  def local(params, batch, key):
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if n != 1:
      value_and_grad = _scanned(value_and_grad, n)
    parts = split.boxed(params, specs)
    sums, grads = value_and_grad(parts, batch, key)
    s, (w, aux) = jax.lax.psum(sums, several)
    grads, tree = jax.tree.flatten(split.unboxed(grads))
    grads = [
      jax.lax.psum(g, of_data if split.AXIS in spec else several)
      for g, spec in zip(grads, leaves, strict=True)
    ]
    grads = jax.tree.map(
      lambda g, p: (g / w).astype(p.dtype), tree.unflatten(grads), params
    )
    return (s / w, (w, aux)), grads

  rows, whole = PartitionSpec(split.ROWS), PartitionSpec()
  parts = jax.tree.map(split.without_tensor, specs)
  return jax.shard_map(
    local,
    mesh=mesh,
    axis_names=set(axes),
    in_specs=(parts, rows, whole),
    out_specs=(whole, parts),
    check_vma=False,  # gradients are taken within, so only psum adds them up
  )


def _scanned(f, n):
  """Makes a function that sums f(params, batch, key) over n micro-batches."""

  def total(params, batch, key):
    B = len(jax.tree.leaves(batch)[0])
    if n < 1 or B % n:
      raise ValueError(
        f'accumulate={n}; expected a divisor of the {B} rows that a device has.'
      )

    def cut(x):
      return jnp.moveaxis(x.reshape(B // n, n, *x.shape[1:]), 1, 0)

    def add(sums, x):
      i, rows = x
      new = f(params, rows, jax.random.fold_in(key, i))
      return jax.tree.map(jnp.add, sums, new), None

    def zero(x):
      return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

    xs = jnp.arange(n), jax.tree.map(cut, batch)
    one = jax.tree.map(lambda x: x[0], xs[1])
    zeros = jax.tree.map(zero, jax.eval_shape(f, params, one, key))
    return lax.scan(add, zeros, xs)[0]

  return total
