# SPDX-License-Identifier: Apache-2.0
"""Guards scores against model outputs that are not finite."""

import math


def nan_unless(finite: bool, scores: dict) -> dict:
  """The scores of an evaluation if the model's outputs are finite, else NaN.

  argmax and comparisons turn a NaN into an answer like any other (the first
  class, the first span), which may be right by chance. So scores of a model
  pass through here.

  Args:
    finite: whether all outputs of the model are finite.
    scores: dict name -> what was computed from them. Texts (a signature) and
      whole numbers (a count) stay.
  """
  if finite:
    return scores
  return {
    name: value if isinstance(value, str | int) else math.nan
    for name, value in scores.items()
  }
