# SPDX-License-Identifier: Apache-2.0
"""What a function costs, read off its jaxpr; nothing is run or compiled."""

import math

import jax
from jax.extend import core


def flops(function, *arguments):
  """Floating-point operations of a function's matrix products, 2 m n k each.

  As they are executed: blocks that a causal kernel skips are not counted, what
  a backward pass computes again is. Of a `cond` the cheaper side counts: the
  other side is what shared scores fall back on. A Pallas kernel counts by its
  own estimate; what a kernel of another library (cuDNN) does is not seen.

  Args:
    function: of arrays.
    *arguments: arrays or jax.ShapeDtypeStructs.
  """
  return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def saved_bytes(function, *arguments):
  """Bytes that reverse mode keeps from the forward for the backward pass.

  Without the arguments themselves, which are there anyway.
  """

  def residuals(*arguments):
    return jax.vjp(function, *arguments)[1]

  jaxpr = jax.make_jaxpr(residuals)(*arguments).jaxpr
  kept = {id(x): x.aval for x in jaxpr.outvars if isinstance(x, core.Var)}
  for x in jaxpr.invars:
    kept.pop(id(x), None)
  return sum(x.size * x.dtype.itemsize for x in kept.values())


def _flops(jaxpr):
  return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation):
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(left[i] for i in contracted) * math.prod(out)
  if name == 'pallas_call' and params['cost_estimate']:
    return params['cost_estimate'].flops
  inner = [_flops(jaxpr) for jaxpr in _jaxprs(params.values())]
  if name == 'cond':
    return min(inner)
  return params['length'] * sum(inner) if name == 'scan' else sum(inner)


def _jaxprs(values):
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _jaxprs(value)
