# SPDX-License-Identifier: Apache-2.0
"""What a model costs, and its attention beside multi-head attention."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from collab import attention
from collab.accounting import layer as layer_cost


def size(tree):
  """Number of scalars in a tree."""
  return sum(x.size for x in jax.tree.leaves(tree))


def attention_parameters(model):
  """Scalars in a model's attention layers, in closed form.

  Args:
    model: models.Model.
  """
  return sum(
    attention.build(**fields).count(model.dim)
    for place in model.attentions()
    for fields in place.each()
  )


def attention_cost(model, T):
  """Sum of `layer.Cost` over a model's attention layers, T tokens everywhere.

  Args:
    model: models.Model.
    T: tokens of the sequence, and of the memory.
  """
  total, known, dtype = layer_cost.Cost(), {}, model.block.dtype or jnp.float32
  for place in model.attentions():
    kind = dict(causal=place.causal, cross=place.cross)
    for fields in place.each():
      case = repr((fields, kind))
      if case not in known:
        one = layer_cost.of(fields, model.dim, T, dtype=dtype, **kind)
        known[case] = one.repeated(place.runs)
      total += known[case]
  return total


def with_mha(model):
  """The same model with multi-head attention everywhere."""
  mha = {p.field: layer_cost.as_mha(p.fields) for p in model.attentions()}
  own = model.block.names()
  block = {name: x for name, x in mha.items() if name in own}
  rest = {name: x for name, x in mha.items() if name not in own}
  return model.clone(block=dataclasses.replace(model.block, **block), **rest)


def tokens(model, data):
  """Tokens of a training sequence of a model, by its config's data."""
  return data.row_length if 'row_length' in data else model.longest


def si(x):
  """12345678 as '12.3 M'."""
  prefixes = '', ' k', ' M', ' G', ' T', ' P'
  power = max(0, min(int(math.log10(max(x, 1))) // 3, len(prefixes) - 1))
  return f'{x / 1000**power:.3g}{prefixes[power]}'
