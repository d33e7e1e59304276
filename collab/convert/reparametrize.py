# SPDX-License-Identifier: Apache-2.0
"""Converts the attention of a trained model, and measures what that loses.

Every multi-head attention layer of a model becomes a layer of another variant
(see `layers`, and `rotated` for those of decoders with rotary positions), from
its weights alone or, much better, also from statistics of its inputs (see
`input_statistics`).
"""

from collections.abc import Mapping
import dataclasses
import inspect
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from collab import attention, checks
from collab.attention.core import Attention
from collab.convert import budgets, intercept
from collab.convert.calibration import Calibration
from collab.convert.decompose import (
  fit,
  input_statistics,
  layers,
  rank_search,
  rotated,
  values,
)
from collab.convert.decompose.mha import read
from collab.models.layers import of_layer
from collab.runtime import tree_table

# Carried over, where the new attention has them.
KEPT = 'num_heads', 'qkv_features', 'key_features', 'out_features', 'rope'
# Fields whose other values the conversions do not know.
PLAIN = dict(normalize_qk=False, qk_norm=False, rope=None, soft_cap=None)
PLAIN |= dict(window=None, value_dims=None)


class Layer(NamedTuple):
  """A layer to convert.

  Attributes:
    path: of its parameters, ('encoder', 'layer_0', 'self_attention').
    field: of models.build, that configures its attention.
    module: the layer itself.
    kept: fields of the old attention that the new one takes over.
  """

  path: tuple
  field: str
  module: Attention
  kept: dict


class Converted(NamedTuple):
  """A model whose attention is another one.

  Attributes:
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays.
    rows: per layer a dict: 'layer' (its path), the fields asked for but sweeps,
      'error' (relative, of the output), and 'parameters' and 'cache' (scalars
      per token), each also with '_before'.
    curves: a rank_search.Curve per layer if the new attention is collab, else
      None; also None where a budget was divided by trials.
    trials: those of a budget, see budgets.Widths.
  """

  model: dict
  params: dict
  rows: list
  curves: list | None
  trials: tuple = ()


def find(model: Mapping, params: Mapping) -> list[Layer]:
  """The attention layers of a model, in the order in which it calls them.

  Args:
    model: fields of models.build.
    params: of that model.

  Raises:
    ValueError: one is neither mha, nor gqa that rotates, or not as in PLAIN.
  """
  found = []
  for path, place, fields in intercept.layers(model, params):
    module = attention.build(**fields)
    got = {key: getattr(module, key) for key in PLAIN}
    names, plain = ('mha',), PLAIN
    if place.causal and module.rope and module.rope.fraction == 1:
      names, plain = ('mha', 'gqa'), PLAIN | dict(rope=module.rope)
    if fields['name'] not in names or got != plain:
      raise ValueError(
        f'{"/".join(path)}: the attention of the model is {fields["name"]}, '
        f'{_shown(got)}; expected {" or ".join(names)}, {_shown(plain)}.'
      )
    if found and (found[0].module.rope is None) != (module.rope is None):
      raise ValueError(
        f'{"/".join(path)} has rope={module.rope}, the first layer '
        f'{found[0].module.rope}; expected that all rotate, or none.'
      )
    kept = {key: fields[key] for key in KEPT if key in fields}
    if not module.use_bias:  # whatever the model says, a conversion has them
      kept['use_bias'] = True
    found.append(Layer(path, place.field, module, kept))
  return found


def _shown(fields):
  return ', '.join(f'{key}={value!r}' for key, value in fields.items())


def convert(
  model: dict,
  params: dict,
  fields: Mapping,
  calibration: Calibration | None = None,
  budget: tuple[str, int | float] | None = None,
  refine: int = 0,
) -> Converted:
  """Converts all layers.

  Args:
    model: fields of models.build.
    params: of that model.
    fields: of the new attention: name, and what the function in
      layers.VARIANTS takes, or in rotated.VARIANTS; a tuple gives one value per
      layer. {} returns the model unchanged, and dict(name='mha') alone does so
      if it has mha that does not rotate.
    calibration: calibration.Calibration to look at, None for weights alone.
    budget: chooses widths of keys and values for collab and mha:
      ('parameters', maximum) or ('cache', maximum) of all attention layers, as
      int, or as float, a share of what they have; for collab ('error', maximum
      per layer); or ('heads', maximum) prunes those of mha. See `budgets`. For
      mla of layers that rotate, ('cache', maximum), of which all layers get the
      same.
    refine: steps of `fit.refine`, which needs calibration.

  Raises:
    ValueError: an attention or a field that there is no conversion for, a
      value out of range, a budget that cannot be met.
  """
  if not (fields or budget or refine):
    return Converted(model, params, [], None)
  found = find(model, params)
  rotates = found[0].module.rope is not None
  if fields == dict(name='mha') and not (budget or refine or rotates):
    return Converted(model, params, [], None)
  variants = rotated.VARIANTS if rotates else layers.VARIANTS
  name, fields = _checked(dict(fields), budget, variants, rotates)
  if refine and calibration is None:
    raise ValueError(f'refine={refine} needs calibration.')
  wanted = [of_layer(fields, i, len(found)) for i in range(len(found))]
  mhas = [_read(layer, params) for layer in found]
  by_trial = budget is not None and budget[0] in budgets.COUNTS
  seen, held = calibration, None
  if by_trial and not rotates:
    seen, held = budgets.held_out(calibration)
  moments = _moments(found, mhas, params, seen)
  curves, trials = None, ()
  if name == 'collab' and not by_trial:
    curves = _curves(mhas, moments, wanted)
  if budget and rotates:
    wanted = _same_cache(budget[1], found, mhas, wanted)
  elif budget and budget[0] == 'heads':
    heads = budgets.heads(budget[1], mhas, moments)
    wanted = [x | dict(num_heads=n) for x, n in zip(wanted, heads, strict=True)]
  elif budget:
    wanted, mhas, trials = _within_budget(
      budget, params, found, name, mhas, moments, curves, wanted, held
    )
  trees = []
  for layer, *given, want in _progress('layers', found, mhas, moments, wanted):
    if rotates:
      tree, own = variants[name](*given, layer.module.rope, **want)
      want |= own
    else:
      tree = _converted(name, *given, want)
    trees.append(tree)
  built = _attention_fields(found, name, mhas, wanted)
  pairs = {
    layer.path: (layer.module, attention.build(name, **fields))
    for layer, fields in zip(found, built, strict=True)
  }
  new = params
  for path, tree in zip(pairs, trees, strict=True):
    with np.errstate(over='ignore'):  # not_finite reports it below
      new = intercept.put(new, path, jax.tree.map(np.float32, tree))
  if refine:
    new = fit.refine(params, new, pairs, calibration, refine)
  if bad := tree_table.join_names(tree_table.not_finite(new)):
    raise ValueError(f'{name}: not finite in float32: {bad}.')
  measured = fit.measure(params, pairs, calibration)(
    {path: intercept.get(new, path) for path in pairs}
  )
  rows = [
    _row(path, *pair, want, measured[path], model['dim'])
    for (path, pair), want in zip(pairs.items(), wanted, strict=True)
  ]
  model = model | _model_fields(found, name, built)
  return Converted(model, new, rows, curves, trials)


def _checked(fields, budget, variants, rotates):
  """Checks the fields; returns name and fields, mqa as gqa of kv_heads=1."""
  name = fields.pop('name')
  if name == 'mqa':
    name = 'gqa'
    if (got := fields.setdefault('kv_heads', 1)) != 1:
      raise ValueError(f'mqa: kv_heads={got}; expected 1, gqa takes others.')
  if name not in variants:
    names, what = ', '.join(sorted([*variants, 'mqa'])), 'mha'
    if rotates:
      what = 'attention with rotary positions'
    raise ValueError(f'attention={name}: {what} can be converted to {names}.')
  parameters = inspect.signature(variants[name]).parameters.values()
  legal = {p.name: p for p in parameters if p.kind == p.KEYWORD_ONLY}
  if unknown := sorted(fields.keys() - legal):
    raise ValueError(
      f'{name} has no field {", ".join(unknown)}; it has {", ".join(legal)}.'
    )
  for key, given in fields.items():
    kind = legal[key].annotation
    for x in given if isinstance(given, tuple) else (given,):
      if not isinstance(x, (int, float) if kind is float else kind):
        raise ValueError(f'{name}: {key}={x!r}; expected {kind.__name__}.')
  needed = {n for n, p in legal.items() if p.default is p.empty}
  if rotates:
    rotated.check(fields)
  if budget and rotates:
    rotated.check_budget(*budget, name, fields)
    needed.discard('cache_size')
  elif budget:
    budgets.check(*budget, name, fields)
    needed.discard('shared_dim')
  if missing := sorted(needed - fields.keys()):
    raise ValueError(f'attention={name} needs {", ".join(missing)}.')
  return name, fields


def _read(layer, params):
  tree = intercept.get(params, layer.path)
  with checks.located('/'.join(layer.path)):
    if layer.module.rope and np.any(tree.get('key', {}).get('bias', 0)):
      raise ValueError(
        'key/bias, which the softmax does not cancel under rope, is not 0.'
      )
    return read(tree, layer.module.scale, grouped=bool(layer.module.rope))


def _same_cache(most, found, mhas, wanted):
  """Returns `wanted` with the cache of each layer that a budget allows."""
  sizes = [
    layer.module.cache_size(len(mha.query))
    for layer, mha in zip(found, mhas, strict=True)
  ]
  if isinstance(most, int):
    most /= sum(sizes)
  return [
    want | dict(cache_size=int(most * size))
    for want, size in zip(wanted, sizes, strict=True)
  ]


def _moments(found, mhas, params, calibration):
  """input_statistics.Moments of each layer's inputs."""
  if calibration is None:
    return [input_statistics.white(len(m.query)) for m in mhas]
  model, batches = calibration
  rotates = found[0].module.rope is not None
  seen = input_statistics.collect(model, params, batches, rotates)
  return [seen[layer.path] for layer in found]


def _curves(mhas, moments, wanted):
  """rank_search.Curve of each layer, in which are all shared_dim asked for."""
  widths = {want['shared_dim'] for want in wanted if 'shared_dim' in want}
  return [
    rank_search.curve(*given, want.get('bias', 'content'), widths)
    for *given, want in _progress('key widths', mhas, moments, wanted)
  ]


def _within_budget(
  budget, params, found, name, mhas, moments, curves, wanted, held
):
  """Returns `wanted` with the widths that a budget chooses, Mhas, and trials.

  The values of these Mhas have the rank of their widths.
  """
  built = _attention_fields(found, name, mhas, wanted)
  curves = curves or [None] * len(found)
  parts = [
    budgets.Part(layer.path, name, layer.module, *part)
    for layer, *part in zip(
      found, built, mhas, moments, curves, wanted, strict=True
    )
  ]
  keys, ranks, trials = budgets.choose(*budget, parts, params, held)
  field = budgets.KEYS[name]
  wanted = [x | {field: k} for x, k in zip(wanted, keys, strict=True)]
  if all(min(r) == x.out.shape[1] for r, x in zip(ranks, mhas, strict=True)):
    return wanted, mhas, trials  # all values stay as they are
  wanted = [x | dict(value_dims=r) for x, r in zip(wanted, ranks, strict=True)]
  mhas = list(map(values.low_rank, mhas, moments, ranks))
  return wanted, mhas, trials


def _converted(name, mha, moments, want):
  """Returns the tree of a converted layer."""
  want = dict(want)
  widths = want.pop('value_dims', None)
  tree = layers.VARIANTS[name](mha, moments, **want)
  return tree if widths is None else values.packed(tree, widths)


def _attention_fields(found, name, mhas, wanted):
  """Fields of each new layer; others of `wanted` are the conversion's alone."""
  known = {f.name for f in dataclasses.fields(attention.variants.variant(name))}
  built = []
  for layer, mha, want in zip(found, mhas, wanted, strict=True):
    fields = {k: x for k, x in (layer.kept | want).items() if k in known}
    if name == 'mha':  # the heads that stay are as wide as they were
      n = fields['num_heads'] = want.get('num_heads') or layer.module.num_heads
      fields['qkv_features'] = n * mha.out.shape[1]
      keys = want.get('key_features') or n * mha.query.shape[2]
      fields['key_features'] = keys
    built.append(fields)
  return built


def _model_fields(found, name, built):
  """The fields of the model that change: its attentions."""
  changed = {}
  for field in dict.fromkeys(layer.field for layer in found):
    pairs = zip(found, built, strict=True)
    here = [fields for layer, fields in pairs if layer.field == field]
    changed[field] = dict(name=name)
    for key, first in here[0].items():
      each = tuple(fields[key] for fields in here)
      same = all(x == first for x in each) and not isinstance(first, tuple)
      changed[field][key] = first if same else each
      if not same:
        changed['scan'] = False  # which needs layers alike
  return changed


def _row(path, old, new, want, measured, dim):
  """A row of Converted; how long a layer was fitted is no property of it."""
  return dict(
    layer='/'.join(path),
    **{key: value for key, value in want.items() if key != 'sweeps'},
    error=float(measured.squared_error() ** 0.5),
    parameters_before=old.count(dim),
    parameters=new.count(dim),
    cache_before=old.cache_size(dim),
    cache=new.cache_size(dim),
  )


def _progress(what, *columns):
  # disable=None: no bar without a terminal.
  return tqdm(list(zip(*columns, strict=True)), what, disable=None)
