# SPDX-License-Identifier: Apache-2.0
"""Curves and maps as SVG and PNG inside an HTML page."""

import base64
from html import escape
import io
from typing import NamedTuple

import matplotlib
from matplotlib import ticker
import numpy as np
from PIL import Image

POINTS = 200  # of a curve, at most
COLOURS = 8  # --c0 ... of page.html; further curves are dashed
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 250, 62, 12, 12, 40
SCALE = matplotlib.colormaps['viridis'](np.linspace(0, 1, 64))[:, :3]
DOT = 'stroke-width:7;stroke-linecap:round;stroke:'
LETTER = 8.2  # of labels of maps, its width


class Curve(NamedTuple):
  """A line of a chart; curves of one label have one colour.

  Attributes:
    label: for the legend.
    points: (x, y) with x rising; a y that is not finite is a gap.
  """

  label: str
  points: list


# Curves -----------------------------------------------------------------------


def chart(title, curves, last, labels):
  """A <figure> of curves over steps, '' if they have no finite point.

  Args:
    title: of the chart.
    curves: list of Curve.
    last: step that the horizontal axis ends at, at least 1.
    labels: of all charts of the page, so that each keeps its colour.
  """
  ys = [y for curve in curves for _, y in curve.points if np.isfinite(y)]
  if not ys:
    return ''
  across = _ticks(0, last, integer=True)
  up = _ticks(min(ys), max(ys))

  def place(x, y):
    y = (y - up[0]) / (up[-1] - up[0])
    return (
      LEFT + x / last * (WIDTH - LEFT - RIGHT),
      HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM),
    )

  present = {curve.label for curve in curves}
  styles = {x: _style(i) for i, x in enumerate(labels) if x in present}
  parts = [*_axes(across, up, place, last)]
  parts += [_curve(curve, place, styles[curve.label]) for curve in curves]
  told = f'{title}: ' + '; '.join(_told(c) for c in curves[:COLOURS])
  svg = (
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    f'aria-label="{escape(told)}">{"".join(parts)}</svg>'
  )
  head = f'<h3>{escape(title)}</h3>'
  return f'<figure>{head}{_legend(styles)}{svg}</figure>'


def _axes(across, up, place, last):
  for y in up:
    _, v = place(0, y)
    yield f'<path class="axis" d="M{LEFT} {v:.1f}H{WIDTH - RIGHT}"/>'
    yield _text(LEFT - 6, v + 4, f'{y:,.6g}', 'end')
  for x in across:
    if x <= last:
      u, _ = place(x, 0)
      yield _text(u, HEIGHT - BOTTOM + 18, f'{x:,.6g}', 'middle')
  yield _text(WIDTH - RIGHT, HEIGHT - 4, 'step', 'end')


def _ticks(low, high, **options):
  """Round numbers from low or below to high or above."""
  if low == high:
    low, high = (min(0, 2 * low), max(0, 2 * low)) if low else (0, 1)
  found = ticker.MaxNLocator(
    5, steps=[1, 2, 2.5, 5, 10], **options
  ).tick_values(low, high)
  return [float(x) for x in found]


def _style(i):
  """Attributes of the lines of the i-th label."""
  dash = i // COLOURS * 4
  dashes = f' stroke-dasharray="{dash} 3"' if dash else ''
  return f'style="stroke:var(--c{i % COLOURS})"{dashes}'


def _curve(curve, place, style):
  points = curve.points
  if len(points) > POINTS:
    chosen = np.linspace(0, len(points) - 1, POINTS).round().astype(int)
    points = [points[i] for i in chosen]
  pieces = [[]]
  for x, y in points:
    if np.isfinite(y):
      pieces[-1].append('{:.1f} {:.1f}'.format(*place(x, y)))
    else:
      pieces.append([])
  dot = style.replace('stroke:', DOT)
  return ''.join(
    f'<path class="curve" {style if len(piece) > 1 else dot} '
    f'd="M{"L".join(piece if len(piece) > 1 else piece * 2)}"/>'
    for piece in pieces
    if piece
  )


def _legend(styles):
  """What the lines are, unless there is only one."""
  if len(styles) < 2:
    return ''
  items = [
    f'<li><svg viewBox="0 0 32 8" aria-hidden="true"><path class="curve" '
    f'{style} d="M0 4H32"/></svg> {escape(label)}</li>'
    for label, style in styles.items()
  ]
  return f'<ul class="legend">{"".join(items)}</ul>'


def _told(curve):
  """A curve in words, for who cannot see it."""
  finite = [p for p in curve.points if np.isfinite(p[1])]
  if not finite:
    return f'{curve.label} has no number'
  (x0, y0), (x1, y1) = finite[0], finite[-1]
  return f'{curve.label} from {y0:.4g} at {x0} to {y1:.4g} at {x1}'


def _text(x, y, text, anchor, more=''):
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>'
    f'{escape(text)}</text>'
  )


# Maps -------------------------------------------------------------------------


def heat(grid):
  """A data URL of a PNG, a pixel for each number of [T, S] from 0 to 1.

  What is exactly 0, as where a mask is, is transparent.
  """
  levels = 1 + np.rint(np.clip(grid, 0, 1) * (len(SCALE) - 1))
  image = Image.fromarray(np.where(grid == 0, 0, levels).astype(np.uint8))
  colours = np.rint(np.vstack([[1, 1, 1], SCALE]) * 255).astype(np.uint8)
  image.putpalette(colours.tobytes())
  return _url(image, transparency=0)


def picture(pixels):
  """A data URL of uint8 [S, S, C]."""
  return _url(Image.fromarray(pixels.squeeze()))


def _url(image, **options):
  file = io.BytesIO()
  image.save(file, 'png', optimize=True, **options)
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def scale(low=0):
  """What colours mean, from `low` to 1."""
  url = heat(np.linspace(1e-9, 1, len(SCALE))[None])
  image = f'<img src="{url}" alt="from dark blue by green to yellow">'
  return f'<p class="scale soft">{low:g} {image} 1</p>'


def labelled(url, rows, columns, about, cell=15):
  """An SVG of a map with its rows' and columns' labels.

  Args:
    url: of `heat`.
    rows, columns: list of str, what its pixels stand for.
    about: what it shows, in words.
    cell: side of a pixel.
  """
  left, top = (
    LETTER * max(map(len, map(_short, side))) + 8 for side in (rows, columns)
  )
  width, height = left + cell * len(columns), top + cell * len(rows)
  parts = [_image(url, left, top, cell * len(columns), cell * len(rows))]
  for i, word in enumerate(rows):
    parts.append(_text(left - 5, top + cell * (i + 0.8), _short(word), 'end'))
  for i, word in enumerate(columns):
    x, y = left + cell * (i + 0.8), top - 5
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"'
    parts.append(_text(x, y, _short(word), 'start', turn))
  return _svg(width, height, parts, about)


def matrix(grid, names, sizes, about, side=320):
  """An SVG of a square of numbers from 0 to 1, its rows in named blocks.

  Args:
    grid: [N, N].
    names: of the blocks.
    sizes: rows of each block; N in all.
    about: what it shows, in words.
    side: of the drawing.
  """
  left = LETTER * max(map(len, names)) + 8
  parts = [_image(heat(grid), left, 0, side, side)]
  start = 0
  for name, size in zip(names, sizes, strict=True):
    at, end = (side * x / len(grid) for x in (start + size / 2, start + size))
    parts.append(_text(left - 5, at + 4, name, 'end'))
    if end < side:
      lines = f'M{left:.1f} {end:.1f}h{side}M{left + end:.1f} 0v{side}'
      parts.append(f'<path class="block" d="{lines}"/>')
    start += size
  return _svg(left + side, side, parts, about)


def _svg(width, height, parts, about):
  return (
    f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
    f'style="max-width:{width * 1.25:.0f}px" '
    f'aria-label="{escape(about)}">{"".join(parts)}</svg>'
  )


def _image(url, x, y, width, height):
  return (
    f'<image class="heat" href="{url}" x="{x:.1f}" y="{y:.1f}" '
    f'width="{width}" height="{height}" preserveAspectRatio="none"/>'
  )


def _short(word):
  return word if len(word) <= 10 else f'{word[:9]}…'
