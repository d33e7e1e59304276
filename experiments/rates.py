# SPDX-License-Identifier: Apache-2.0
"""Chooses learning rates from the rows of a study that tried some.

Its arms are called NAME-RATE. Where the best rate is the highest or the lowest
of those tried, the next one is to be tried too: the same sweep again makes it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
import math

from experiments import results, study


def scores(name: str, metric: str) -> dict[str, dict[float, float]]:
  """Returns {NAME: {rate: score}} of a study; a diverged run has infinity."""
  found = defaultdict(dict)
  for row in results.rows(study.RESULTS / f'{name}.jsonl', metrics=dict):
    of, _, rate = row['arm'].partition('-')  # a rate may be 5e-05
    score = results.as_float(row['metrics'].get(metric))
    found[of][float(rate)] = math.inf if math.isnan(score) else score
  return found


def tried(start: Sequence[float], found: Mapping[float, float]) -> list[float]:
  """Lists the rates to try: `start`, and on where the best is at an end.

  Args:
    start: the first ones, from the lowest.
    found: {rate: score} of those that have run; lower is better.
  """
  rates = list(start)
  while all(rate in found for rate in rates):
    best = min(rates, key=found.get)
    if best == rates[0]:
      rates.insert(0, best / 2)
    elif best == rates[-1]:
      rates.append(2 * best)
    else:
      break
  return rates


def best(
  name: str, start: Sequence[float], found: Mapping[float, float]
) -> float:
  """Returns the rate with the best score, of those that `tried` lists.

  Raises:
    ValueError: one of them has not run.
  """
  rates = tried(start, found)
  if left := [f'{rate:g}' for rate in rates if rate not in found]:
    raise ValueError(
      f'{name} has to run with {", ".join(left)} before, in its study of '
      f'rates; {study.RESULTS} has no rows of it.'
    )
  return min(rates, key=found.get)
