# SPDX-License-Identifier: Apache-2.0
"""Layouts only move numbers."""

import numpy as np
import pytest

from collab.convert.huggingface import layouts


@pytest.mark.parametrize(
  'layout, shapes, want',
  [
    (layouts.HEADS, [(5, 2, 3)], (6, 5)),
    (layouts.DENSE, [(2, 3, 5)], (5, 6)),
    (layouts.DENSE, [(3, 5)], (5, 3)),
    (layouts.GPT_DENSE, [(2, 3, 5)], (6, 5)),
    (layouts.GPT_HEADS, [(5, 2, 3)] * 3, (5, 18)),
    (layouts.patches(2), [(12, 5)], (5, 3, 2, 2)),
  ],
)
def test_layouts_are_one_to_one(layout, shapes, want):
  weight = layout[0]
  rng = np.random.default_rng(0)
  params = [rng.normal(size=shape) for shape in shapes]
  tensor = weight.write(*params)
  assert tensor.shape == want
  back = weight.read(tensor, *shapes)
  for x, y in zip(params, back, strict=True):
    np.testing.assert_array_equal(x, y)
