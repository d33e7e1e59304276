# SPDX-License-Identifier: Apache-2.0
"""Draws attention maps, and the similarity of the heads.

Axes: H heads of a layer, T queries, S keys, N heads of some layers.
"""

import re

import numpy as np

from experiments.report import charts, maps
from experiments.report.page import parts


def show(seen: maps.Example, layers: list[maps.Layer]) -> str:
  """Makes HTML with small maps of all heads, and a large one of each layer.

  Args:
    seen: maps.Example.
    layers: list of maps.Layer.
  """
  picture = '' if seen.picture is None else charts.picture(seen.picture)
  shown, places = [], set()
  for layer in layers:
    grids = _patches(layer.weights) if picture else layer.weights**0.5
    keys = [f'{x:.1f} keys' for x in maps.width(layer.weights)]
    heads = [*zip(map(charts.heat, grids), keys, strict=True)]
    shown.append((layer, heads, layer.place not in places))
    places.add(layer.place)
  return parts.attention(seen.about, shown, charts.BAR, picture)


def _patches(weights):
  """Returns the class token's weights, [H, side, side], scaled to at most 1."""
  H, _, S = weights.shape
  side = int(S**0.5)  # one or two learned tokens precede the patches
  grids = weights[:, 0, S - side * side :].reshape(H, side, side)
  return grids / grids.max()


def alike(layers: list[maps.Layer]) -> str:
  """Makes HTML on the similarity of heads that see the same tokens."""
  places = {}
  for layer in layers:
    places.setdefault(layer.place, []).append(layer)
  return parts.alike([_alike(*place) for place in places.items()], charts.BAR)


def _alike(place, layers):
  matrix = maps.likeness(np.concatenate([x.weights for x in layers]))
  low = np.floor(10 * matrix.min()) / 10  # most pairs are similar
  spread = (matrix - low) / (1 - low) if low < 1 else matrix
  sizes = [len(x.weights) for x in layers]
  return dict(
    name=place,
    low=low,
    url=charts.heat(spread),
    labels=[f'layer {re.sub("[^0-9]", "", x.name)}' for x in layers],
    sizes=sizes,
    rows=_rows(matrix, [x.name for x in layers], sizes),
  )


def _rows(matrix, names, sizes):
  """Tabulates means within and between layers, and the most similar pair."""
  rows, ends = [], np.cumsum(sizes)
  for name, H, end in zip(names, sizes, ends, strict=True):
    own = np.s_[end - H : end]
    others = np.delete(matrix[own], own, axis=1)
    outside = f'{others.mean():.2f}' if others.size else ''
    if H == 1:
      rows.append((name, '', '', '', outside))
      continue
    a, b = np.triu_indices(H, 1)
    pairs = matrix[own, own][a, b]
    top, low = pairs.argmax(), pairs.argmin()
    told = [
      f'{pairs[i]:.2f}\N{NO-BREAK SPACE}({a[i]},\N{NO-BREAK SPACE}{b[i]})'
      for i in (top, low)
    ]
    rows.append((name, f'{pairs.mean():.2f}', *told, outside))
  return rows
