# SPDX-License-Identifier: Apache-2.0
"""Computes gradients of a batch, at once or in several micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp


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
  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  if n != 1:
    value_and_grad = _scanned(value_and_grad, n)
  (s, (w, aux)), grads = value_and_grad(params, batch, key)
  grads = jax.tree.map(lambda g, p: (g / w).astype(p.dtype), grads, params)
  return (s / w, (w, aux)), grads


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
