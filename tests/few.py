# SPDX-License-Identifier: Apache-2.0
"""Which cases of a matrix every change runs; the others need `-m slow`."""

from collections.abc import Collection, Iterable

import pytest


def few(
  cases: Iterable, quick: Collection, names: str = 'case'
) -> pytest.MarkDecorator:
  """Parametrises a test by its cases; those not in `quick` are slow."""
  values = lambda case: case if ',' in names else (case,)
  marks = lambda case: () if case in quick else pytest.mark.slow
  return pytest.mark.parametrize(
    names, [pytest.param(*values(case), marks=marks(case)) for case in cases]
  )
