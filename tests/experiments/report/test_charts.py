# SPDX-License-Identifier: Apache-2.0
"""Curves and maps: what is drawn is what was given."""

import base64
import io
import re

import numpy as np
from PIL import Image

from experiments.report import charts
from experiments.report.page import parts

NAN = float('nan')


def paths(html):
  """The points of each curve that is drawn, without the legend's."""
  found = re.findall(r'<path class="curve" [^>]* d="M([^"]*)"', html)
  return [
    [tuple(map(float, p.split())) for p in path.split('L')]
    for path in found
    if 'H' not in path
  ]


def chart(*points):
  curves = [(f'arm {i}', list(p)) for i, p in enumerate(points)]
  labels = [label for label, _ in curves]
  return charts.chart('loss', curves, last=10, labels=labels)


def pixels(url):
  kind, _, data = url.partition(',')
  assert kind == 'data:image/png;base64'
  image = Image.open(io.BytesIO(base64.b64decode(data)))
  return np.asarray(image.convert('RGBA'))


def test_places_are_in_proportion_and_in_the_frame():
  ((a, b, c),) = paths(chart([(0, 1.0), (5, 3.0), (10, 2.0)]))
  assert a[0] == charts.LEFT
  assert c[0] == charts.WIDTH - charts.RIGHT
  assert b[0] == (a[0] + c[0]) / 2
  assert b[1] < c[1] < a[1]  # up is less in SVG
  assert abs(c[1] - (a[1] + b[1]) / 2) < 0.11
  for _, y in (a, b, c):
    assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM


def test_what_is_not_finite_is_a_gap():
  points = [(1, 1.5), (2, NAN), (3, float('inf')), (5, 1.0), (6, 2.0)]
  html = chart(points)
  first, last = paths(html)
  assert len(first) == 2  # a dot, from itself to itself
  assert first[0] == first[1]
  assert last[0] != last[1]
  assert html.count('stroke-linecap:round') == 1
  assert chart([(1, NAN)]) == ''


def test_constant_curve_has_an_axis():
  for value in (0.0, 3e-4, -2.0):
    ((a, b),) = paths(chart([(1, value), (2, value)]))
    assert a[1] == b[1]


def test_long_curves_are_thinned_out_and_keep_their_ends():
  points = [(10 * i / 999, float(i)) for i in range(1000)]
  ((*found,),) = paths(chart(points))
  whole, short = found, paths(chart([points[0], points[-1]]))[0]
  assert len(whole) == charts.POINTS
  assert [whole[0], whole[-1]] == short


def test_legend_names_each_label_once():
  curves = [(x, [(1, 1.0), (2, 2.0)]) for x in ('<a>', 'b', '<a>')]
  html = charts.chart('x < y', curves, 2, ['<a>', 'absent', 'b'])
  assert html.count('<li>') == 2
  assert '&lt;a&gt;' in html
  assert '<a>' not in html
  assert 'x < y' not in html
  assert '<li>' not in charts.chart('x', curves[:1], 2, ['<a>'])
  colours = re.findall(r'--c\d', html.partition('</ul>')[2])
  assert colours == ['--c0', '--c2', '--c0']


def test_more_curves_than_colours_differ_by_dashes():
  points = [(1, 1.0), (2, 2.0)]
  html = chart(*[points] * (charts.COLOURS + 1))
  styles = re.findall(r'class="curve" ([^>]*) d="M0', html)
  assert len({*styles}) == charts.COLOURS + 1


def test_heat_is_a_pixel_a_number_and_blank_where_nothing_is():
  found = pixels(charts.heat(np.array([[0, 1e-6, 0.5], [1, 2, 0]])))
  assert found.shape == (2, 3, 4)
  np.testing.assert_array_equal(found[..., 3] == 0, [[1, 0, 0], [0, 0, 1]])
  colours = np.rint(charts.SCALE * 255)
  np.testing.assert_array_equal(found[0, 1, :3], colours[0])
  np.testing.assert_array_equal(found[1, 0], found[1, 1])
  np.testing.assert_array_equal(found[1, 0, :3], colours[-1])


def test_picture_comes_back():
  for channels in (1, 3):
    image = np.arange(4 * channels, dtype=np.uint8).reshape(2, 2, channels)
    found = pixels(charts.picture(image))[..., :3]
    np.testing.assert_array_equal(found, np.broadcast_to(image, (2, 2, 3)))


def test_labels_of_a_map():
  url = charts.heat(np.ones((1, 2)))
  html = parts.labelled(url, ['a' * 20], ['<b>', 'c'], '"about"')
  words = re.findall('<text[^>]*>([^<]*)<', html)
  assert words == [f'{"a" * 9}…', '&lt;b&gt;', 'c']
  assert 'aria-label="&#34;about&#34;"' in html
