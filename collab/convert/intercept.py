# SPDX-License-Identifier: Apache-2.0
"""Finds the attention layers of a model, and records their calls.

A layer is identified by the path of its parameters, ('encoder', 'layer_0',
'self_attention'). Axes: B batch, T queries, S keys, D model.
"""

from collections.abc import Iterable, Mapping
import functools
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from collab import models
from collab.attention import Mask
from collab.attention.core import Attention
from collab.attention.heads import Heads
from collab.models.transformer import Place

OUT = ('out', 'kernel')  # the output projection, which every variant has
_FIRST = {'encoder', 'self_attention'}


class Inputs(NamedTuple):
  """The inputs of an attention layer in one call, and what it made of them.

  Attributes:
    x: queries' input [B, T, D].
    y: keys' and values' input [B, S, D].
    x_valid: bool [B, T], False where x is padding.
    y_valid: bool [B, S].
    mask: the masks.Mask of the call, or None.
    o: the heads' mixed values [B, T, H, V], None if they were not recorded.
    out: the layer's output [B, T, D].
    heads: the Heads that attend, None if they were not wanted.
  """

  x: jax.Array
  y: jax.Array
  x_valid: jax.Array
  y_valid: jax.Array
  mask: Mask | None
  o: jax.Array | None = None
  out: jax.Array | None = None
  heads: Heads | None = None


def paths(params: Mapping) -> list[tuple]:
  """Lists the paths of the attention layers, in the order of their calls.

  The encoder comes before the decoder, layers in numerical order, and
  self-attention before cross attention.

  Raises:
    ValueError: the tree has no attention layers.
  """
  flat = traverse_util.flatten_dict(params)
  found = [path[:-2] for path in flat if path[-2:] == OUT]
  if not found:
    raise ValueError(
      f'No attention layer in these parameters: {", ".join(params)}.'
    )
  return sorted(found, key=lambda path: [_order(name) for name in path])


def layers(model: Mapping, params: Mapping) -> list[tuple[tuple, Place, dict]]:
  """Lists (path, Place, fields of attention.build) of the attention layers.

  Args:
    model: fields of models.build.
    params: of that model; they are in the order of `paths`.
  """
  places = {p.name: p for p in models.build(**model).attentions()}
  found = []
  for path in paths(params):
    # ('encoder', 'layer_0', 'self_attention'), or one that ends in 'cross'.
    place = places['cross' if path[-1] == 'cross' else path[0]]
    fields = place.each()[int(path[-2].removeprefix('layer_'))]
    found.append((path, place, fields))
  return found


def _order(name):
  return name not in _FIRST, len(name), name


def get(params: Mapping, path: tuple) -> Any:
  """Returns the part of a tree at a path."""
  for name in path:
    params = params[name]
  return params


def put(params: Mapping, path: tuple, new: Any) -> Any:
  """Returns a new tree with another part at a path."""
  if not path:
    return new
  return params | {path[0]: put(params[path[0]], path[1:], new)}


def run(
  model: nn.Module,
  params: Mapping,
  batch: Mapping,
  wanted: Iterable[tuple],
  heads: bool = False,
) -> tuple:
  """Applies a model, and records the inputs of attention layers.

  Args:
    model: model of models.build, without scan and remat.
    params: its parameters.
    batch: a batch of the model.
    wanted: paths of the layers.
    heads: whether to record their Heads.

  Returns:
    The model's output, and {path: [Inputs of each call]}.

  Raises:
    ValueError: the model does not call the layer at a path.
  """
  calls = {path: [] for path in wanted}

  methods = '__call__', 'finish', *(['read'] if heads else [])

  def look(function, args, kwargs, context):
    layer, method = context.module, context.method_name
    own = calls.get(layer.path) if isinstance(layer, Attention) else None
    if own is None or method not in methods:
      return function(*args, **kwargs)
    if method == 'finish':  # within the call that is last in the list
      own[-1] = own[-1]._replace(o=args[0])
      return function(*args, **kwargs)
    if method == 'read':
      own[-1] = own[-1]._replace(heads=function(*args, **kwargs))
      return own[-1].heads
    own.append(_inputs(*args, mask=kwargs['mask']))
    out = function(*args, **kwargs)
    own[-1] = own[-1]._replace(out=out)
    return out

  with nn.intercept_methods(look):
    out = model.apply({'params': params}, batch)
  if never := ['/'.join(path) for path, found in calls.items() if not found]:
    raise ValueError(
      f'No attention layer was called at {", ".join(never)}; is it there, and '
      'is the model without scan and remat?'
    )
  return out, calls


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def record(
  model: nn.Module,
  params: Mapping,
  batch: Mapping,
  wanted: tuple,
  heads: bool = False,
) -> dict:
  """Computes the calls of `run`, compiled once for each shape of a batch."""
  return run(model, params, batch, wanted, heads)[1]


def _inputs(x, y=None, *, mask):
  """Makes the Inputs of a call; the mask shows which are padding."""
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
