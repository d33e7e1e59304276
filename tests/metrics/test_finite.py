# SPDX-License-Identifier: Apache-2.0
"""Outputs that are not finite have no score."""

import numpy as np

from collab.metrics import finite


def test_scores_are_nan_unless_the_outputs_are_finite():
  scores = dict(score=0.75, precisions=[50.0, 25.0], signature='tok:13a')
  scores |= dict(words=7)
  assert finite.nan_unless(True, scores) is scores
  found = finite.nan_unless(False, scores)
  assert found.keys() == scores.keys()
  assert found.pop('signature') == 'tok:13a'
  assert found.pop('words') == 7
  assert all(np.isnan(x) for x in found.values())
