# SPDX-License-Identifier: Apache-2.0
"""The steps at which a run logs, evaluates and saves."""

import pytest

from collab.runtime import plan
from tests import tiny


@pytest.mark.parametrize(
  'what, steps', [('log', [1, 3, 6, 7]), ('eval', [5, 7]), ('checkpoint', [7])]
)
def test_due(what, steps):
  every = dict(every__log=3, every__eval=5, every__checkpoint=7)
  config = tiny.config('corpus', total_steps=7, **every)
  assert [x for x in range(1, 8) if plan.due(config, what, x)] == steps
