# SPDX-License-Identifier: Apache-2.0
"""Computes gradients of a batch, at once or in several micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from collab.models import split


def over_devices(
  loss: Callable, mesh: jax.sharding.Mesh, specs: Any, n: int = 1
) -> Callable:
  """Makes a function of (params, batch, key) like `accumulate`, on a mesh.

  Each device computes with its rows alone. Of a parameter that is split it
  gathers the whole where that is used, see split.py, and each micro-batch adds
  up the gradients over `fsdp` for the part that it keeps. Over `data` they are
  added up once, at the end.

  Args:
    loss: as in `accumulate`; its sums are over the rows that it gets.
    mesh: of sharding.make_mesh.
    specs: tree of PartitionSpec of the parameters.
    n: number of micro-batches.
  """

  def local(params, batch, key):
    parts = split.boxed(params, specs)
    (sums, grads) = _sums(loss, n)(parts, batch, key)
    s, (w, aux) = jax.lax.psum(sums, mesh.axis_names)
    apart = jax.tree.map(lambda spec: split.AXIS in spec, specs)
    grads = [
      jax.lax.psum(g, 'data' if is_part else mesh.axis_names)
      for g, is_part in zip(
        jax.tree.leaves(split.unboxed(grads)),
        jax.tree.leaves(apart),
        strict=True,
      )
    ]
    grads = jax.tree.unflatten(jax.tree.structure(params), grads)
    return (s / w, (w, aux)), _mean(grads, w, params)

  whole, rows = PartitionSpec(), PartitionSpec(mesh.axis_names)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(specs, rows, whole),
    out_specs=(whole, specs),
    check_vma=False,  # gradients are taken inside: only the psums above add up
  )


def accumulate(
  loss: Callable, params: Any, batch: Any, key: jax.Array, n: int = 1
) -> tuple:
  """Computes the gradient of a mean over a batch, from n micro-batches.

    L = sum_i s_i / sum_i w_i;  dL/dp = (sum_i ds_i/dp) / sum_i w_i

  This is exact for any weights w_i (NaN if all are zero). A scan runs over the
  micro-batches. Micro-batch i takes the rows i, i + n, ..., so that each device
  uses its own rows and none are exchanged. Sums are at least float32.

  Args:
    loss: (params, batch, key) -> (s, (w, aux)) with scalars s and w, w
      independent of params, and aux a dict of sums over the rows.
    params: pytree.
    batch: pytree of [B, ...].
    key: random key of dropout; micro-batch i gets fold_in(key, i), unless n =
      1.
    n: number of micro-batches; divides B, best into multiples of the device
      count.

  Returns:
    (L, (sum_i w_i, sum_i aux_i)), dL/dp, like jax.value_and_grad.

  Raises:
    ValueError: n does not divide B.
  """
  (s, (w, aux)), grads = _sums(loss, n)(params, batch, key)
  return (s / w, (w, aux)), _mean(grads, w, params)


def _mean(sums, weight, like):
  return jax.tree.map(lambda g, p: (g / weight).astype(p.dtype), sums, like)


def _sums(loss, n):
  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  return value_and_grad if n == 1 else _scanned(value_and_grad, n)


def _scanned(f, n):
  """Makes a function that sums f(params, batch, key) over n micro-batches."""

  def total(params, batch, key):
    B = len(jax.tree.leaves(batch)[0])
    if n < 1 or B % n:
      raise ValueError(f'{n} micro-batches do not divide a batch of {B} rows.')

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
