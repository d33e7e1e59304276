# SPDX-License-Identifier: Apache-2.0
"""A trained model with another attention, and what that loses.

Every multi-head attention layer of a model becomes a layer of another variant
(see `layers`), by its weights alone or, much better, by looking at inputs.
"""

import dataclasses
import inspect
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from collab import attention, models
from collab.convert import fit, graft, layers, moments, widths
from collab.convert import source as sources
from collab.models.layers import of_layer
from collab.training import leaves

KEPT = 'num_heads', 'qkv_features', 'out_features'  # of the old layer


class Layer(NamedTuple):
  """A layer to convert.

  Attributes:
    path: of its parameters.
    place: the field of the model that says its attention.
    module: attention.Attention of it.
    kept: fields that every attention has and that stay.
  """

  path: tuple
  place: str
  module: Any
  kept: dict


class Converted(NamedTuple):
  """A model whose attention is another one.

  Attributes:
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays.
    rows: a dict for each layer: layer; the fields of its attention; error of
      its output, relative; parameters and cache (scalars a token) before and
      after.
    curves: widths.Curve of each layer of collab, else None.
  """

  model: dict
  params: dict
  rows: list
  curves: list | None


def find(model, params) -> list[Layer]:
  """The attention layers of a model, in the order in which it calls them.

  Args:
    model: fields of models.build.
    params: of that model.

  Raises:
    ValueError: there are none, or others than mha.
  """
  paths = graft.paths(params)
  places, found = [_place(model, path) for path in paths], []
  for i, (path, place) in enumerate(zip(paths, places, strict=True)):
    fields = dict(model[place] or model['attention'])
    if fields['name'] == 'mha':
      mine = of_layer(fields, places[:i].count(place), places.count(place))
      kept = {name: mine[name] for name in KEPT if name in mine}
      found.append(Layer(path, place, attention.build(**mine), kept))
  if not found or len(found) < len(paths):
    names = {x['name'] for x in sources.attention_places(model).values() if x}
    raise ValueError(
      f'The attention of the model is {", ".join(sorted(names))}; only mha can '
      'be converted.'
    )
  return found


def convert(
  model, params, fields, calibration=None, budget=None, refine=0
) -> Converted:
  """Converts all layers.

  Args:
    model: fields of models.build.
    params: of that model.
    fields: of the new attention: name, and what the function in
      layers.VARIANTS takes. A tuple has a value for each layer. With mha alone
      all stays as it is.
    calibration: calibration.Calibration to look at, None for weights alone.
    budget: for collab without shared_dim: ('error', most of each layer) or
      ('parameters', most of the whole model); see `widths`.
    refine: steps of `fit.refine`, which needs calibration.

  Raises:
    ValueError: an attention or a field that there is no conversion for, a
      value out of range, a budget that cannot be met.
  """
  found = find(model, params)
  if fields == dict(name='mha') and not (budget or refine):
    return Converted(model, params, [], None)
  name, fields = _known(dict(fields), budget)
  if refine and calibration is None:
    raise ValueError(f'refine={refine} needs calibration.')
  mhas = [_read(layer, params) for layer in found]
  inputs = _moments(found, mhas, params, calibration)
  curves = None
  if name == 'collab':
    given = fields.get('shared_dim', ())
    more = given if isinstance(given, tuple) else (given,)
    bias = fields.get('bias', 'content')
    curves = [
      widths.curve(m, x, bias, more)
      for m, x in _progress(mhas, inputs, what='key widths')
    ]
    if budget:
      fields['shared_dim'] = _chosen(model, params, found, curves, budget)
  each = [of_layer(fields, i, len(found)) for i in range(len(found))]
  modules = {
    layer.path: _module(name, layer, own)
    for layer, own in zip(found, each, strict=True)
  }
  new = params
  for layer, m, x, own in _progress(found, mhas, inputs, each, what='layers'):
    tree = layers.VARIANTS[name](m, x, **own)
    with np.errstate(over='ignore'):  # told below
      new = graft.put(new, layer.path, jax.tree.map(np.float32, tree))
  pairs = {
    layer.path: fit.Pair(layer.module, modules[layer.path]) for layer in found
  }
  if refine:
    new = fit.refine(params, new, pairs, calibration, refine)
  bad = [k for k, x in leaves.named(new).items() if not np.isfinite(x).all()]
  if bad:
    raise ValueError(f'{name}: not finite in float32: {leaves.some(bad)}.')
  errors = fit.errors(params, new, pairs, calibration)
  rows = [
    _row(layer, modules[layer.path], own, errors[layer.path], params)
    for layer, own in zip(found, each, strict=True)
  ]
  changed = _fields(model, found, modules, name, each)
  return Converted(model | changed, new, rows, curves)


def _known(fields, budget):
  """Name and fields of the new attention; (kv_heads=1 of mqa)."""
  name = fields.pop('name')
  if name == 'mqa':
    name, fields = 'gqa', fields | dict(kv_heads=1)
  if name not in layers.VARIANTS:
    legal = ', '.join(sorted([*layers.VARIANTS, 'mqa']))
    raise ValueError(f'attention={name}: mha can be converted to {legal}.')
  parameters = inspect.signature(layers.VARIANTS[name]).parameters.values()
  legal = {p.name: p for p in parameters if p.kind == p.KEYWORD_ONLY}
  if unknown := sorted(fields.keys() - legal):
    raise ValueError(
      f'{name} has no field {", ".join(unknown)}; it has {", ".join(legal)}.'
    )
  for key, values in fields.items():
    kind = legal[key].annotation
    for x in values if isinstance(values, tuple) else (values,):
      if not isinstance(x, (int, float) if kind is float else kind):
        raise ValueError(f'{name}: {key}={x!r}; expected {kind.__name__}.')
  needed = {n for n, p in legal.items() if p.default is p.empty}
  if budget:
    if name != 'collab' or 'shared_dim' in fields:
      raise ValueError(
        f'budget={"=".join(map(str, budget))} chooses the shared_dim of collab;'
        ' give no other attention and no shared_dim.'
      )
    needed.discard('shared_dim')
  if missing := sorted(needed - fields.keys()):
    raise ValueError(f'attention={name} needs {", ".join(missing)}.')
  return name, fields


def _place(model, path):
  """The field of the model that says the attention of a path."""
  name = 'cross' if path[-1] == 'cross' else path[0]
  places = models.build(**model).attentions()
  return next(place.field for place in places if place.name == name)


def _read(layer, params):
  tree = graft.get(params, layer.path)
  width = tree['value']['kernel'].shape[-1]
  scale = layer.module.scale * width**0.5 or 1.0
  try:
    return layers.read(tree, scale)
  except ValueError as e:
    raise ValueError(f'{"/".join(layer.path)}: {e}') from e


def _moments(found, mhas, params, calibration):
  if calibration is None:
    return [moments.white(len(m.query)) for m in mhas]
  paths = [layer.path for layer in found]
  seen = moments.collect(calibration.model, params, calibration.batches, paths)
  return [seen[path] for path in paths]


def _chosen(model, params, found, curves, budget):
  """Key widths for a budget, a tuple."""
  kind, value = budget
  if kind == 'error':
    return tuple(widths.for_error(curves, value))
  rest = sum(x.size for x in jax.tree.leaves(params))
  rest -= sum(layer.module.count(model['dim']) for layer in found)

  def cost(chosen):
    new = (
      _module('collab', layer, dict(shared_dim=k)).count(model['dim'])
      for layer, k in zip(found, chosen, strict=True)
    )
    return rest + sum(new)

  return tuple(widths.for_parameters(curves, cost, value))


def _module(name, layer, own):
  return attention.build(name, **layer.kept, **_of_module(name, own))


def _of_module(name, own):
  """Those fields that are the layer's, not the conversion's."""
  cls = attention.variants.variant(name)
  legal = {f.name for f in dataclasses.fields(cls)}
  return {key: value for key, value in own.items() if key in legal}


def _fields(model, found, modules, name, each):
  """The model's fields that change: its attentions."""
  changed = {}
  for place in dict.fromkeys(layer.place for layer in found):
    here = [
      layer.kept | _of_module(name, own)
      for layer, own in zip(found, each, strict=True)
      if layer.place == place
    ]
    changed[place] = dict(name=name)
    for key in here[0]:
      values = tuple(fields[key] for fields in here)
      changed[place][key] = values[0] if len(set(values)) == 1 else values
  return changed


def _row(layer, module, own, error, params):
  D = graft.get(params, layer.path)['query']['kernel'].shape[0]
  fields = {k: v for k, v in own.items() if k != 'sweeps'}
  return dict(
    layer='/'.join(layer.path),
    **fields,
    error=error,
    parameters_before=layer.module.count(D),
    parameters=module.count(D),
    cache_before=layer.module.cache_size(D),
    cache=module.cache_size(D),
  )


def _progress(*columns, what):
  return tqdm(list(zip(*columns, strict=True)), what, disable=None)
