# SPDX-License-Identifier: Apache-2.0
"""Converts the attention of a trained model, and measures what that loses.

Every multi-head attention layer of a model becomes a layer of another variant
(see `layers`), by its weights alone or, much better, by looking at inputs.
"""

from collections.abc import Mapping
import dataclasses
import inspect
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from collab import attention, models
from collab.attention.core import Attention
from collab.convert import intercept
from collab.convert.decompose import fit, input_statistics, layers, rank_search
from collab.convert.decompose.mha import read
from collab.models.layers import of_layer
from collab.runtime import tree_table

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
  module: Attention
  kept: dict


class Converted(NamedTuple):
  """A model whose attention is another one.

  Attributes:
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays.
    rows: a dict for each layer: layer; the fields of its attention; error of
      its output, relative; parameters and cache (scalars a token) before and
      after.
    curves: rank_search.Curve of each layer of collab, else None.
  """

  model: dict
  params: dict
  rows: list
  curves: list | None


def find(model: Mapping, params: Mapping) -> list[Layer]:
  """The attention layers of a model, in the order in which it calls them.

  Args:
    model: fields of models.build.
    params: of that model.

  Raises:
    ValueError: one is not mha, or is one that normalizes queries and keys.
  """
  places = {p.name: p for p in models.build(**model).attentions()}
  found = []
  for path in intercept.paths(params):
    place = places['cross' if path[-1] == 'cross' else path[0]]
    fields = place.each()[int(path[-2].removeprefix('layer_'))]
    name = fields['name']
    if fields.get('normalize_qk'):
      name += ' with normalize_qk'
    if name != 'mha':
      raise ValueError(
        f'{"/".join(path)}: the attention of the model is {name}; only mha can '
        'be converted, and without normalize_qk.'
      )
    kept = {key: fields[key] for key in KEPT if key in fields}
    found.append(Layer(path, place.field, attention.build(**fields), kept))
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
      ('parameters', most of the whole model); see `rank_search`.
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
    curves = _curves(mhas, inputs, fields)
    if budget:
      fields['shared_dim'] = _chosen(model, params, found, curves, budget)
  each = [of_layer(fields, i, len(found)) for i in range(len(found))]
  # Some of the fields are the conversion's, not the layer's.
  legal = {f.name for f in dataclasses.fields(attention.variants.variant(name))}
  built = [
    layer.kept | {key: value for key, value in own.items() if key in legal}
    for layer, own in zip(found, each, strict=True)
  ]
  pairs = {
    layer.path: (layer.module, attention.build(name, **own))
    for layer, own in zip(found, built, strict=True)
  }
  new = params
  for layer, m, x, own in _progress(found, mhas, inputs, each, what='layers'):
    tree = layers.VARIANTS[name](m, x, **own)
    with np.errstate(over='ignore'):  # told below
      new = intercept.put(new, layer.path, jax.tree.map(np.float32, tree))
  if refine:
    new = fit.refine(params, new, pairs, calibration, refine)
  if bad := tree_table.join_names(tree_table.not_finite(new)):
    raise ValueError(f'{name}: not finite in float32: {bad}.')
  errors = fit.errors(params, new, pairs, calibration)
  rows = [
    _row(path, *pair, own, errors[path], model['dim'])
    for (path, pair), own in zip(pairs.items(), each, strict=True)
  ]
  return Converted(model | _fields(found, name, built), new, rows, curves)


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


def _read(layer, params):
  try:
    return read(intercept.get(params, layer.path), layer.module.scale)
  except ValueError as e:
    raise ValueError(f'{"/".join(layer.path)}: {e}') from e


def _moments(found, mhas, params, calibration):
  if calibration is None:
    return [input_statistics.white(len(m.query)) for m in mhas]
  model, batches = calibration
  seen = input_statistics.collect(model, params, batches)
  return [seen[layer.path] for layer in found]


def _curves(mhas, inputs, fields):
  """rank_search.Curve of each layer; those widths that are wanted are in it."""
  widths = fields.get('shared_dim', ())
  widths = widths if isinstance(widths, tuple) else (widths,)
  bias = fields.get('bias', 'content')
  return [
    rank_search.curve(m, x, bias, widths)
    for m, x in _progress(mhas, inputs, what='key widths')
  ]


def _chosen(model, params, found, curves, budget):
  """Key widths for a budget, a tuple."""
  kind, value = budget
  if kind == 'error':
    return tuple(rank_search.for_error(curves, value))
  rest = sum(x.size for x in jax.tree.leaves(params))
  rest -= sum(layer.module.count(model['dim']) for layer in found)

  def cost(chosen):
    return rest + sum(
      attention.build('collab', **layer.kept, shared_dim=k).count(model['dim'])
      for layer, k in zip(found, chosen, strict=True)
    )

  return tuple(rank_search.for_parameters(curves, cost, value))


def _fields(found, name, built):
  """The fields of the model that change: its attentions."""
  changed = {}
  for place in dict.fromkeys(layer.place for layer in found):
    here = [x for l, x in zip(found, built, strict=True) if l.place == place]
    changed[place] = dict(name=name)
    for key in here[0]:
      values = tuple(fields[key] for fields in here)
      changed[place][key] = values[0] if len(set(values)) == 1 else values
  return changed


def _row(path, old, new, own, error, dim):
  fields = {k: v for k, v in own.items() if k != 'sweeps'}
  return dict(
    layer='/'.join(path),
    **fields,
    error=error,
    parameters_before=old.count(dim),
    parameters=new.count(dim),
    cache_before=old.cache_size(dim),
    cache=new.cache_size(dim),
  )


def _progress(*columns, what):
  return tqdm(list(zip(*columns, strict=True)), what, disable=None)
