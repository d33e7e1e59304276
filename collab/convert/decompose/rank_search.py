# SPDX-License-Identifier: Apache-2.0
"""Chooses widths of keys by the errors of scores, and buys directions."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

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
  """

  widths: list
  errors: list


def curve(mha: Mha, moments: Moments, bias: str, more: Iterable[int]) -> Curve:
  """Computes errors at shares of the full width and at the widths in `more`."""
  _, H, K = mha.query.shape
  N = H * K
  widths = {max(1, round(N * share)) for share in SHARES} | {N, *more}
  q, k = layers.grams(mha, moments, bias)
  errors = [
    cp.decompose(q, k, H, width, SWEEPS).error for width in sorted(widths)
  ]
  return Curve(sorted(widths), errors)


def for_error(curves: list[Curve], most: float) -> list[int]:
  """Finds the smallest widths whose errors are at most `most`."""
  return [
    next(w for w, e in zip(c.widths, c.errors, strict=True) if e <= most)
    for c in curves
  ]


def buy(gains: list, prices: list, budget: float) -> list[np.ndarray]:
  """Takes what gains most for its price, of each layer at least the best.

  Args:
    gains: an array for each layer.
    prices: the price of an element of each.
    budget: what all may cost; at least the sum of prices.

  Returns:
    bool arrays of the same shapes.
  """
  worth = [g.reshape(-1) / p for g, p in zip(gains, prices, strict=True)]
  for x in worth:
    x[x.argmax()] = np.inf
  order = np.argsort(-np.concatenate(worth), kind='stable')
  price = np.repeat(prices, [x.size for x in worth])[order]
  taken = np.zeros(len(order), bool)
  taken[order[np.cumsum(price) <= budget]] = True
  parts = np.split(taken, np.cumsum([x.size for x in worth])[:-1])
  return [x.reshape(g.shape) for x, g in zip(parts, gains, strict=True)]
