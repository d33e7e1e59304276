# SPDX-License-Identifier: Apache-2.0
"""Looks into the attention layers of a model, and puts others in their place.

A layer is known by the path of its parameters, ('encoder', 'layer_0',
'self_attention'). Axes: B batch, T queries, S keys, D model.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import Mask
from collab.attention.core import Attention

_PROJECTIONS = {'query', 'key', 'value', 'out'}
_FIRST = {'encoder', 'self_attention'}


class Inputs(NamedTuple):
  """What an attention layer got in one call.

  Attributes:
    x: queries' input [B, T, D].
    y: keys' and values' input [B, S, D].
    x_valid: bool [B, T], False where x is padding.
    y_valid: bool [B, S].
    mask: the masks.Mask of the call, or None.
  """

  x: jax.Array
  y: jax.Array
  x_valid: jax.Array
  y_valid: jax.Array
  mask: Mask | None


def paths(params):
  """Paths of the layers in a tree that have the parameters of attention.

  Those that a model calls first come first: the encoder before the decoder,
  self-attention before cross attention, layers by their numbers.
  """
  found = []

  def walk(tree, path):
    if tree.keys() == _PROJECTIONS:
      found.append(path)
      return
    for name in sorted(tree, key=order):
      if isinstance(tree[name], dict):
        walk(tree[name], (*path, name))

  walk(params, ())
  return found


def order(name):
  """By which names are sorted as a model calls them."""
  return name not in _FIRST, len(name), name


def get(params, path):
  """The part of a tree at a path."""
  for name in path:
    params = params[name]
  return params


def put(params, path, new):
  """The tree with another part at a path; the old tree stays as it is."""
  if not path:
    return new
  return params | {path[0]: put(params[path[0]], path[1:], new)}


def run(model, params, batch, layers=None, wanted=()):
  """Applies a model with other layers in places, and looks at their inputs.

  Args:
    model: of models.build, without scan and remat.
    params: its parameters, with those of the other layers in their places.
    batch: of the model.
    layers: {path: layer} that stand in for the model's own.
    wanted: paths of which the inputs are returned.

  Returns:
    what the model returns, {path: [Inputs of each call]}.

  Raises:
    ValueError: a path that the model does not call.
  """
  layers = layers or {}
  calls = {path: [] for path in (*layers, *wanted)}

  def look(function, args, kwargs, context):
    layer, path = context.module, context.module.path
    if (
      not isinstance(layer, Attention)
      or context.method_name != '__call__'
      or path not in calls
    ):
      return function(*args, **kwargs)
    calls[path].append(_inputs(*args, mask=kwargs['mask']))
    if path not in layers:
      return function(*args, **kwargs)
    own = {'params': get(params, path)}
    return layers[path].apply(own, *args, **kwargs)

  with nn.intercept_methods(look):
    out = model.apply({'params': params}, batch)
  if never := ['/'.join(path) for path, found in calls.items() if not found]:
    raise ValueError(
      f'No attention layer was called at {", ".join(never)}; is it there, and '
      'is the model without scan and remat?'
    )
  return out, {path: calls[path] for path in wanted}


def _inputs(x, y=None, *, mask):
  """Inputs of a call; which are padding is read from the mask."""
  y = x if y is None else y
  of_x, of_y = jnp.ones(x.shape[:2], bool), jnp.ones(y.shape[:2], bool)
  if mask is not None:
    if mask.q_segments is not None:
      of_x &= mask.q_segments > 0
      same = mask.kv_segments is None
      of_y &= (mask.q_segments if same else mask.kv_segments) > 0
    if mask.key_valid is not None:
      of_y &= mask.key_valid
      of_x = of_y if y is x else of_x
  return Inputs(x, y, of_x, of_y, mask)
