# SPDX-License-Identifier: Apache-2.0
"""Replaces scores by NaN where model outputs are not finite."""

import math


def nan_unless(finite: bool, scores: dict) -> dict:
  """Returns the scores if the model's outputs are finite, else NaN.

  argmax and comparisons turn a NaN into an ordinary answer (the first class,
  the first span), which may be right by chance. So scores of a model pass
  through this function.

  Args:
    finite: whether all outputs of the model are finite.
    scores: dict name -> value computed from them. Texts (a signature) and
      integers (a count) are kept.
  """
  if finite:
    return scores
  return {
    name: value if isinstance(value, str | int) else math.nan
    for name, value in scores.items()
  }
