# SPDX-License-Identifier: Apache-2.0
"""Reads the attention weights of a model on one text.

Axes: H heads, T queries, S keys, L tokens.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np

from collab import models
from collab.attention import Attention
from collab.convert import intercept

SOWN = 'attention_weights'


class AttentionMaps(NamedTuple):
  """Attention weights, with the tokens that they are between.

  Attributes:
    tokens: tokens of the text, and of the second text of a pair.
    target: tokens of the translation, for a translator.
    weights: {layer: float32 [H, T, S]}, as 'encoder/layer_0/self_attention'.
      The weights of a query sum to one. A layer that is called several times
      (ALBERT) is [calls, H, T, S].
  """

  tokens: list[str]
  target: list[str]
  weights: dict[str, np.ndarray]


def weights(
  model: models.Model, params: Mapping, batch: Mapping
) -> dict[str, np.ndarray]:
  """Computes AttentionMaps.weights of a batch of one row without padding."""
  sown = jax.device_get(_sown(model, params, batch))
  found = {}
  for path in intercept.paths(params):
    calls = intercept.get(sown, path)[SOWN]
    each = np.stack([x[0] for x in calls]).astype(np.float32)
    found['/'.join(path)] = each if len(each) > 1 else each[0]
  return found


@functools.partial(jax.jit, static_argnums=0)
def _sown(model, params, batch):
  """Runs a model whose layers sow their weights; returns what is sown."""

  def sow(function, args, kwargs, context):
    called = context.method_name == '__call__'
    if called and isinstance(context.module, Attention):
      kwargs = {**kwargs, 'sow_weights': True}
    return function(*args, **kwargs)

  model = model.clone(scan=False, remat='none')
  with nn.intercept_methods(sow):
    _, kept = model.apply({'params': params}, batch, mutable='intermediates')
  return kept['intermediates']
