# SPDX-License-Identifier: Apache-2.0
"""Chooses the key widths of collaborative attention, layer by layer."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from collab.convert.decompose import cp, layers
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha

SHARES = (1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
SWEEPS = 20  # enough to compare widths


class Curve(NamedTuple):
  """The errors of one layer at several key widths.

  Attributes:
    widths: increasing widths; the last has no error.
    errors: relative error of the scores at each width. Heads are weighted by
      the effect on the output, see `layers.grams`.
    energy: mean square of these scores, which makes the errors of different
      layers comparable.
  """

  widths: list
  errors: list
  energy: float


def curve(mha: Mha, moments: Moments, bias: str, more: Iterable[int]) -> Curve:
  """Computes errors at shares of the full width and at the widths in `more`."""
  D, H, K = mha.query.shape
  N = H * K
  widths = {max(1, round(N * share)) for share in SHARES} | {N, *more}
  q, k = layers.grams(mha, moments, bias)
  errors = [
    cp.decompose(q, k, H, width, SWEEPS).error for width in sorted(widths)
  ]
  return Curve(sorted(widths), errors, cp.square(q, k, H) / N)


def for_error(curves: list[Curve], most: float) -> list[int]:
  """Finds the smallest widths whose errors are at most `most`.

  Raises:
    ValueError: most is below 0.
  """
  if not most >= 0:
    raise ValueError(f'budget error={most}; expected at least 0.')
  return [
    next(w for w, e in zip(c.widths, c.errors, strict=True) if e <= most)
    for c in curves
  ]


def for_parameters(curves: list[Curve], cost: Callable, budget: int) -> list:
  """Finds widths that cost at most `budget`, with a small error of the scores.

  All layers start at the smallest width. The layer that gains most for its
  parameters is widened step by step, while the budget allows.

  Args:
    curves: curves of the layers.
    cost: function widths -> parameters of the whole model.
    budget: maximum number of parameters.

  Raises:
    ValueError: the smallest widths cost more.
  """
  at = [0] * len(curves)

  def widths(at):
    return [c.widths[i] for c, i in zip(curves, at, strict=True)]

  if (least := cost(widths(at))) > budget:
    raise ValueError(
      f'budget parameters={budget:,}; with the smallest key widths, '
      f'{widths(at)}, the model has {least:,}.'
    )
  while True:
    now, steps = cost(widths(at)), []
    for layer, c in enumerate(curves):
      for i in range(at[layer] + 1, len(c.widths)):
        new = [*at[:layer], i, *at[layer + 1 :]]
        if (price := cost(widths(new))) <= budget:
          square = c.errors[at[layer]] ** 2 - c.errors[i] ** 2
          steps.append((c.energy * square / (price - now), new))
    gain, best = max(steps, default=(0, None))
    if gain <= 0:
      return widths(at)
    at = best
