# SPDX-License-Identifier: Apache-2.0
"""Draws curves and maps as SVG and PNG inside an HTML page."""

import base64
from collections.abc import Sequence
import io
import itertools

import matplotlib
from matplotlib import ticker
import numpy as np
from PIL import Image

from experiments.report.page import parts

POINTS = 200  # maximum number of points of a curve
COLOURS = 8  # --c0 ... of page.html; further curves are dashed
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 250, 62, 12, 12, 40
SCALE = matplotlib.colormaps['viridis'](np.linspace(0, 1, 64))[:, :3]


def chart(title: str, curves: list, last: int, labels: Sequence) -> str:
  """Draws a <figure> of curves over steps; '' if they have no finite point.

  Args:
    title: title of the chart.
    curves: pairs (label, points); curves with one label have one colour. A
      point is (x, y) with x increasing; a y that is not finite makes a gap.
    last: step at the end of the horizontal axis, at least 1.
    labels: labels of all charts of the page, so that each keeps its colour.
  """
  ys = [y for _, points in curves for _, y in points if np.isfinite(y)]
  if not ys:
    return ''
  up = _ticks(min(ys), max(ys))
  right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
  across = lambda x: np.interp(x, (0, last), (LEFT, right))
  down = lambda y: np.interp(y, (up[0], up[-1]), (bottom, TOP))
  styles = {  # colour and dash
    label: (i % COLOURS, i // COLOURS * 4)
    for i, label in enumerate(labels)
    if label in dict(curves)
  }
  steps = _ticks(0, last, integer=True)
  return parts.chart(
    title,
    f'{title}: {"; ".join(_told(*curve) for curve in curves[:COLOURS])}',
    styles,
    [(down(y), f'{y:,.6g}') for y in up],
    [(across(x), f'{x:,.6g}') for x in steps if x <= last],
    [
      (styles[label], [f'{across(x):.1f} {down(y):.1f}' for x, y in piece])
      for label, points in curves
      for piece in _pieces(points)
    ],
    (WIDTH, HEIGHT, LEFT, right, bottom),
  )


def _ticks(low, high, **options):
  """Chooses round numbers from at or below low to at or above high."""
  if low == high:
    low, high = (min(0, 2 * low), max(0, 2 * low)) if low else (0, 1)
  found = ticker.MaxNLocator(
    5, steps=[1, 2, 2.5, 5, 10], **options
  ).tick_values(low, high)
  return [float(x) for x in found]


def _pieces(points):
  """Splits points into finite stretches, thinned to few enough to draw."""
  if len(points) > POINTS:
    chosen = np.linspace(0, len(points) - 1, POINTS).round().astype(int)
    points = [points[i] for i in chosen]
  finite = itertools.groupby(points, lambda point: bool(np.isfinite(point[1])))
  return [list(piece) for is_finite, piece in finite if is_finite]


def _told(label, points):
  """Describes a curve in words, for readers who cannot see it."""
  finite = [p for p in points if np.isfinite(p[1])]
  if not finite:
    return f'{label} has no number'
  (x0, y0), (x1, y1) = finite[0], finite[-1]
  return f'{label} from {y0:.4g} at {x0} to {y1:.4g} at {x1}'


def heat(grid: np.ndarray) -> str:
  """Makes a data URL of a PNG, one pixel for each number of [T, S] from 0 to 1.

  Zeros, which a mask gives, are transparent.
  """
  levels = 1 + np.rint(np.clip(grid, 0, 1) * (len(SCALE) - 1))
  image = Image.fromarray(np.where(grid == 0, 0, levels).astype(np.uint8))
  colours = np.rint(np.vstack([[1, 1, 1], SCALE]) * 255).astype(np.uint8)
  image.putpalette(colours.tobytes())
  return _url(image, transparency=0)


def picture(pixels: np.ndarray) -> str:
  """Makes a data URL of uint8 [S, S, C]."""
  return _url(Image.fromarray(pixels.squeeze()))


def _url(image, **options):
  file = io.BytesIO()
  image.save(file, 'png', optimize=True, **options)
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


BAR = heat(np.linspace(1e-9, 1, len(SCALE))[None])  # all colours from 0 to 1
