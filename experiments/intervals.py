# SPDX-License-Identifier: Apache-2.0
"""Computes bootstrap intervals over seeds and examples, and tests of arms.

A metric is a function of sums over examples: BLEU of matching n-grams, F1 of
true positives. A replicate resamples the test examples, once for all arms and
seeds, because all were tested on the same examples. It also resamples the seeds
of each arm, with equal draws where arms have equally many seeds. Its score is
the mean over its seeds.

  95 % interval    the 2.5th to the 97.5th percentile of the replicates
  p                (number of replicates as far off as d + 1) / (R + 1)

Here d = arm - baseline, and one of the functions below defines how far off a
replicate is. With S seeds the interval is too narrow with respect to the seeds,
by sqrt((S - 1) / S). The standard deviation beside it is not.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

REPLICATES = 1000
SEED = 12345  # sacreBLEU's


class Interval(NamedTuple):
  """An arm's mean score with its interval, and its test against the baseline.

  Attributes:
    seeds: number of runs.
    mean: mean of their scores.
    std: their standard deviation, with S - 1; None for one run.
    low, high: 95 % interval of the mean.
    difference: difference to the baseline; None for the baseline itself, and
      without a baseline.
    span: 95 % interval of the difference, two numbers.
    p: p of the difference, by the test.
  """

  seeds: int
  mean: float
  std: float | None
  low: float
  high: float
  difference: float | None = None
  span: tuple | None = None
  p: float | None = None


def two_sided(replicates: np.ndarray, d: float) -> np.ndarray:
  """Tests whether each replicate is as far off as d: |d_r - mean d| >= |d|."""
  return np.abs(replicates - replicates.mean()) >= abs(d)


def sacrebleu(replicates: np.ndarray, d: float) -> np.ndarray:
  """Tests |d_r| - mean |d| > |d|, as sacreBLEU's paired bootstrap does.

  Koehn, 2004. The results agree to the last digit. If the difference is clear,
  the test is in effect one-sided, so that p is about half of a two-sided one.
  If all replicates are 0, p is 1 / (R + 1), although nothing differs.
  """
  return (np.abs(replicates) - np.abs(replicates).mean() > abs(d)) | (d == 0)


@np.errstate(all='ignore')  # a diverged seed has nan or inf
def compare(
  arms: Mapping[str, ArrayLike],
  score: Callable,
  baseline: str = '',
  test: Callable = two_sided,
) -> dict[str, Interval]:
  """Computes intervals of all arms, and tests against a baseline.

  Args:
    arms: {arm: [S, N, K]}, what each of N examples adds to K sums, for each of
      an arm's S seeds. All arms have the same N.
    score: function of sums [R, K] -> scores [R].
    baseline: the arm that the others are tested against, if it exists.
    test: two_sided or sacrebleu.
  """
  sizes = [np.shape(x)[1] for x in arms.values()]
  assert len(set(sizes)) <= 1, sizes
  n = max(sizes, default=0)
  rng = np.random.default_rng(SEED)
  if n:  # how often each replicate draws each example
    picks = rng.choice(n, size=(REPLICATES, n))
    counts = np.apply_along_axis(np.bincount, 1, picks, minlength=n)
    counts = counts.astype(np.float64)
  means, replicates = {}, {}
  for name, sums in arms.items():
    sums = np.asarray(sums, np.float64)
    means[name] = score(sums.sum(1))
    found = np.stack([score(counts @ x) for x in sums], 1)
    seeds = np.random.default_rng(SEED).choice(len(sums), found.shape)
    replicates[name] = np.take_along_axis(found, seeds, 1).mean(1)
  found = {}
  for name, scores in means.items():
    std = float(scores.std(ddof=1)) if len(scores) > 1 else None
    ends = _middle(replicates[name])
    found[name] = Interval(len(scores), float(scores.mean()), std, *ends)
  for name in arms.keys() - {baseline} if baseline in arms else ():
    d = float(means[name].mean() - means[baseline].mean())
    against = replicates[name] - replicates[baseline]
    p = float((test(against, d).sum() + 1) / (REPLICATES + 1))
    if not np.isfinite(against).all():  # comparisons with nan are false
      p = math.nan
    found[name] = found[name]._replace(difference=d, span=_middle(against), p=p)
  return found


def _middle(replicates):
  """Returns the 2.5th and the 97.5th percentile."""
  return tuple(np.percentile(replicates, [2.5, 97.5]).tolist())
