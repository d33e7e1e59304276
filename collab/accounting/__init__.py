# SPDX-License-Identifier: Apache-2.0
"""Counts parameters and FLOPs of models, and compares attention with MHA."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from collab import attention, models
from collab.accounting import layer as layer_cost


def size(tree: Any) -> int:
  """Counts the scalars in a tree."""
  return sum(x.size for x in jax.tree.leaves(tree))


def attention_parameters(model: models.Model) -> int:
  """Counts the scalars in a model's attention layers, in closed form."""
  return sum(
    attention.build(**fields).count(model.dim)
    for place in model.attentions()
    for fields in place.each()
  )


def attention_cost(model: models.Model, T: int) -> layer_cost.Cost:
  """Sums the Cost of a model's attention layers, each on T tokens."""
  costs, known, dtype = [], {}, model.block.dtype or jnp.float32
  for place in model.attentions():
    kind = dict(causal=place.causal, cross=place.cross)
    runs = place.runs or [1] * place.layers
    for fields, n in zip(place.each(), runs, strict=True):
      case = repr((fields, kind))
      if case not in known:
        known[case] = layer_cost.of(fields, model.dim, T, dtype=dtype, **kind)
      costs.append(known[case].repeated(n))
  return layer_cost.Cost(*map(sum, zip(*costs, strict=True)))


def with_mha(model: models.Model) -> models.Model:
  """Returns the same model with multi-head attention everywhere."""
  mha = {p.field: layer_cost.as_mha(p.fields) for p in model.attentions()}
  block, rest = model.block.of(mha)
  return model.clone(block=dataclasses.replace(model.block, **block), **rest)


def tokens(model: models.Model, data: Mapping) -> int:
  """Returns the tokens of a training sequence, from the config's `data`."""
  return data.row_length if 'row_length' in data else model.longest


def si(x: float) -> str:
  """Formats a number with an SI prefix: 12345678 as '12.3 M'."""
  prefixes = '', ' k', ' M', ' G', ' T', ' P'
  power = max(0, min(int(math.log10(max(x, 1))) // 3, len(prefixes) - 1))
  return f'{x / 1000**power:.3g}{prefixes[power]}'
