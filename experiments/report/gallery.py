# SPDX-License-Identifier: Apache-2.0
"""Attention maps and the likeness of heads, drawn.

Axes: H heads of a layer, T queries, S keys, N heads of some layers.
"""

from html import escape
import re

import numpy as np

from experiments.report import charts, maps, page

ROWS = (
  'A row is a token that looks, a column one that it looks at; the weights of '
  'a row sum to 1, and colour is their square root.'
)
PATCHES = (
  'How much the class token looks at each patch of the image. Colour is the '
  'weight, 1 the largest of the layer.'
)
KEYS = (
  'Keys: how many a head looks at, 2 to the power of the entropy of its '
  'weights in bits, the mean over what looks.'
)
LIKENESS = (
  'One minus the Jensen-Shannon divergence, in bits, of the weights of two '
  'heads, the mean over the tokens of this one example: 1 for the same map, 0 '
  'for heads that never look at the same token.'
)


def show(seen, layers):
  """All heads of all layers: small maps, and one in large with its labels.

  Args:
    seen: maps.Example.
    layers: list of maps.Layer.
  """
  how = ROWS if seen.picture is None else PATCHES
  parts = [page.paragraph(f'{seen.about}. {how} {KEYS}')]
  if seen.picture is not None:
    parts.append('<div class="under picture" role="img" aria-label="It"></div>')
  parts.append(charts.scale())
  places = set()
  for layer in layers:
    first = layer.place not in places
    places.add(layer.place)
    parts.append(page.details(layer.name, _layer(seen, layer), opened=first))
  if seen.picture is None:
    return ''.join(parts)
  url = charts.picture(seen.picture)  # once, whatever it lies under
  return f'<div style="--picture:url({url})">{"".join(parts)}</div>'


def _layer(seen, layer):
  """The small maps of a layer, and the first of them large."""
  picture = seen.picture is not None
  under = 'under' if picture else ''
  grids = _patches(layer.weights) if picture else layer.weights**0.5
  urls = [charts.heat(grid) for grid in grids]
  about = [
    f'{layer.name}, head {h}: {keys:.1f} keys'
    for h, keys in enumerate(maps.width(layer.weights))
  ]
  if picture:
    large = f'<img class="heat" src="{urls[0]}" alt="{escape(about[0])}">'
    large = f'<div class="under">{large}</div>'
  else:
    large = charts.labelled(urls[0], layer.queries, layer.keys, about[0])
  small = ''.join(
    f'<button type="button" aria-pressed="{"false" if h else "true"}">'
    f'<span class="{under}">'
    f'<img src="{url}" alt="{escape(words)}"></span>'
    f'{escape(words.partition(", ")[2]).replace(": ", "<br>")}</button>'
    for h, (url, words) in enumerate(zip(urls, about, strict=True))
  )
  return (
    f'<div class="layer"><figure class="big">{large}'
    f'<figcaption>{escape(about[0])}</figcaption></figure>'
    f'<div class="heads">{small}</div></div>'
  )


def _patches(weights):
  """What the class token looks at, [H, side, side], 1 the largest."""
  H, _, S = weights.shape
  side = int(S**0.5)  # one or two learned tokens go before side^2 patches
  grids = weights[:, 0, S - side * side :].reshape(H, side, side)
  return grids / grids.max()


def alike(layers):
  """Likeness of all heads that see the same tokens."""
  parts = [page.paragraph(LIKENESS)]
  places = {}
  for layer in layers:
    places.setdefault(layer.place, []).append(layer)
  for place, some in places.items():
    matrix = maps.likeness(np.concatenate([x.weights for x in some]))
    sizes = [len(x.weights) for x in some]
    names = [x.name for x in some]
    low = np.floor(10 * matrix.min()) / 10  # most are much alike
    spread = (matrix - low) / (1 - low) if low < 1 else matrix
    about = f'How alike the heads of {place} are, as the table says'
    short = [f'layer {re.sub("[^0-9]", "", name)}' for name in names]
    drawn = charts.matrix(spread, short, sizes, about)
    parts.append(
      f'<h3>{escape(place)}</h3>{charts.scale(low)}<div class="layer">'
      f'<figure class="matrix">{drawn}</figure>'
      f'{_table(matrix, names, sizes)}</div>'
    )
  return ''.join(parts)


def _table(matrix, names, sizes):
  """Means within each layer and to the others, and the most alike pair."""
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
  head = 'layer', 'mean', 'most alike', 'least', 'to other layers'
  about = 'Of the pairs of heads in a layer, and of those with another layer'
  return page.table(head, rows, about)
