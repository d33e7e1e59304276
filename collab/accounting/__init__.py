# SPDX-License-Identifier: Apache-2.0
"""What a model costs, and its attention beside multi-head attention."""

import math

import jax
import jax.numpy as jnp

from collab import attention
from collab.accounting import layer as layer_cost
from collab.models import vit


def size(tree):
  """Number of scalars in a tree."""
  return sum(x.size for x in jax.tree.leaves(tree))


def attention_parameters(model):
  """Scalars in a model's attention layers, in closed form.

  Args:
    model: with `dim` and `attentions()`, a list of models.transformer.Place.
  """
  return sum(
    attention.build(**fields).count(model.dim)
    for place in model.attentions()
    for fields in place.each()
  )


def attention_cost(model, T):
  """Sum of `layer.Cost` over a model's attention layers, T tokens everywhere.

  Args:
    model: with `dim`, `dtype` and `attentions()`, a list of
      models.transformer.Place.
    T: tokens of the sequence, and of the memory.
  """
  total, known, dtype = layer_cost.Cost(), {}, model.dtype or jnp.float32
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
  places = 'attention', 'decoder_attention', 'cross_attention'
  fields = {p: getattr(model, p, None) for p in places}
  return model.clone(
    **{place: layer_cost.as_mha(x) for place, x in fields.items() if x}
  )


def tokens(config):
  """Tokens of a training sequence of a config."""
  if config.model.name == 'vit':
    patches = (config.data.image_size // config.model.patch) ** 2
    return patches + len(vit.TOKENS[config.model.distillation])
  return config.data.row_length


def si(x):
  """12345678 as '12.3 M'."""
  prefixes = '', ' k', ' M', ' G', ' T', ' P'
  power = max(0, min(int(math.log10(max(x, 1))) // 3, len(prefixes) - 1))
  return f'{x / 1000**power:.3g}{prefixes[power]}'
