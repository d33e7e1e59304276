# SPDX-License-Identifier: Apache-2.0
"""What a model costs, and its attention beside multi-head attention."""

import jax

from collab import attention
from collab.models import layers


def size(tree):
  """Number of scalars in a tree."""
  return sum(x.size for x in jax.tree.leaves(tree))


def attention_cost(model):
  """Parameters and cache of a model's attention layers, and of MHA's.

  Args:
    model: with `dim` and `attentions()`: (place, fields, layers, cached).

  Returns:
    dict: parameters and cache (scalars a token and all layers that keep one),
    mha_parameters and mha_cache of the same model with multi-head attention.
  """
  cost = dict(parameters=0, cache=0, mha_parameters=0, mha_cache=0)
  for _, fields, n, cached in model.attentions():
    mha = dict(name='mha', num_heads=fields['num_heads'])
    for prefix, every in (('', fields), ('mha_', mha)):
      for i in range(n):
        layer = attention.build(**layers.of_layer(every, i, n))
        cost[f'{prefix}parameters'] += layer.count(model.dim)
        cost[f'{prefix}cache'] += cached * layer.cache_size(model.dim)
  return cost
