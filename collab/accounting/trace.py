# SPDX-License-Identifier: Apache-2.0
"""Counts the FLOPs and saved bytes of a function from its jaxpr."""

import collections
from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core

# cuDNN's attention in a jaxpr, and how many products of [T, K] x [K, S] it is.
CUDNN = dict(
  dot_product_attention_fwd_wrapper=2,
  dot_product_attention_bwd_wrapper=5,  # the scores are computed again
)


class Product(NamedTuple):
  """A matrix product: its FLOPs, 2 m n k, and the arguments of lax.dot_general.

  The products inside a Pallas kernel count as one, with the sum of their FLOPs
  and no arguments.
  """

  flops: int
  left: tuple | None = None  # shape
  right: tuple | None = None
  dimension_numbers: Any = None


def products(function: Callable, *arguments: Any) -> collections.Counter:
  """Counts how often each matrix product is computed, without running anything.

  The counts are those of the execution: products that the backward pass
  recomputes count again, and blocks that a causal kernel skips do not count. Of
  a `cond` the cheaper branch counts, since the other one is the fallback of
  shared scores. A Pallas kernel counts by its own cost estimate, and cuDNN's
  attention as if it cut causal scores in half.

  Args:
    function: function of arrays.
    *arguments: arrays or jax.ShapeDtypeStructs.
  """
  return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops(function: Callable, *arguments: Any) -> int:
  """Sums the floating-point operations of a function's `products`."""
  return _flops(products(function, *arguments))


def saved_bytes(function: Callable, *arguments: Any) -> int:
  """Counts the bytes that the forward pass keeps for the backward pass.

  The arguments themselves do not count.
  """

  def residuals(*arguments):
    return jax.vjp(function, *arguments)[1]

  jaxpr = jax.make_jaxpr(residuals)(*arguments).jaxpr
  kept = {id(x): x.aval for x in jaxpr.outvars if isinstance(x, core.Var)}
  for x in jaxpr.invars:
    kept.pop(id(x), None)
  return sum(x.size * x.dtype.itemsize for x in kept.values())


def _flops(counted):
  return sum(product.flops * n for product, n in counted.items())


def _products(jaxpr):
  found = collections.Counter()
  for equation in jaxpr.eqns:
    found.update(_of_equation(equation))
  return found


def _of_equation(equation):
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    dims = params['dimension_numbers']
    left, right = (x.aval.shape for x in equation.invars)
    size = math.prod(equation.outvars[0].aval.shape)
    each = 2 * size * math.prod(left[i] for i in dims[0][0])
    return {Product(each, left, right, dims): 1}
  if name == 'pallas_call' and params['cost_estimate']:
    return {Product(params['cost_estimate'].flops): 1}
  if name in CUDNN:
    (B, T, H, K), (_, S, _, _) = (x.aval.shape for x in equation.invars[:2])
    whole = CUDNN[name] * 2 * B * H * T * S * K
    return {Product(whole // (1 + ('CAUSAL' in params['mask_type'].name))): 1}
  inner = [_products(jaxpr) for jaxpr in _jaxprs(params.values())]
  if name == 'cond':
    return min(inner, key=_flops)
  found = sum(inner, collections.Counter())
  if name == 'scan':
    found = {product: n * params['length'] for product, n in found.items()}
  return found


def _jaxprs(values):
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _jaxprs(value)
