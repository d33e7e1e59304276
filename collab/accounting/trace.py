# SPDX-License-Identifier: Apache-2.0
"""Counts the FLOPs and saved bytes of a function from its jaxpr.

Whatever this machine is, the function is traced for a CPU, so that figures of
several machines compare and no product is hidden in an accelerator's kernel.
"""

import collections
from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core

from collab.attention.target import Target, lowering_for


class Product(NamedTuple):
  """A matrix product: its FLOPs, 2 m n k, and the arguments of lax.dot_general.

  The arguments are two shapes and the dimension numbers.
  """

  flops: int
  left: tuple
  right: tuple
  dimension_numbers: Any


def products(function: Callable, *arguments: Any) -> collections.Counter:
  """Counts how often each matrix product is computed, without running anything.

  The counts are those of the execution: products that the backward pass
  recomputes count again, and blocks that a causal kernel skips do not count. Of
  a `cond` the cheaper branch counts, since the other one is the fallback of
  shared scores; of more branches, which are lengths of a cache, the dearest.

  Args:
    function: function of arrays.
    *arguments: arrays or jax.ShapeDtypeStructs.
  """
  return _products(_jaxpr(function, *arguments))


def flops(function: Callable, *arguments: Any) -> int:
  """Sums the floating-point operations of a function's `products`."""
  return _flops(products(function, *arguments))


def saved_bytes(function: Callable, *arguments: Any) -> int:
  """Counts the bytes that the forward pass keeps for the backward pass.

  The arguments themselves do not count.
  """

  def residuals(*arguments):
    return jax.vjp(function, *arguments)[1]

  jaxpr = _jaxpr(residuals, *arguments)
  kept = {id(x): x.aval for x in jaxpr.outvars if isinstance(x, core.Var)}
  for x in jaxpr.invars:
    kept.pop(id(x), None)
  return sum(x.size * x.dtype.itemsize for x in kept.values())


def _jaxpr(function, *arguments):
  with lowering_for(Target('cpu')):
    # A new function: of one that JAX has traced before, it keeps the jaxpr.
    return jax.make_jaxpr(lambda *args: function(*args))(*arguments).jaxpr


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
  inner = [_products(jaxpr) for jaxpr in _jaxprs(params.values())]
  if name == 'cond':
    return (min if len(inner) == 2 else max)(inner, key=_flops)
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
