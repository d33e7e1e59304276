# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over seeds and examples: intervals, and tests against a baseline.

A metric is a function of sums over examples: BLEU of matching n-grams, F1 of
true positives. A replicate draws the examples of the test set anew, once for
all arms and seeds, which were tested on the same; and the seeds of each arm, by
the same numbers where arms have as many. Its score is the mean over its seeds.

  95 % interval    the 2.5th to the 97.5th percentile of the replicates
  p                (number of replicates as far off as d + 1) / (R + 1)

with d = arm - baseline, and how far off a replicate is by one of the functions
below. With few seeds such an interval is too narrow as to the seeds,
by sqrt((S - 1) / S) of S; the standard deviation beside it is not.
"""

import math
from typing import NamedTuple

import numpy as np

REPLICATES = 1000
SEED = 12345  # sacreBLEU's


class Interval(NamedTuple):
  """An arm's mean score with its interval, and its test against the baseline.

  Attributes:
    seeds: runs.
    mean: of their scores.
    std: of them, with S - 1; None of one.
    low, high: of the 95 % interval of the mean.
    difference: to the baseline; None of itself, and where there is none.
    span: its 95 % interval, two numbers.
    p: of this difference, by the test.
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
  """Whether each replicate is as far off as d: |d_r - mean d| >= |d|."""
  return np.abs(replicates - replicates.mean()) >= abs(d)


def sacrebleu(replicates: np.ndarray, d: float) -> np.ndarray:
  """|d_r| - mean |d| > |d|: to the last digit sacreBLEU's paired bootstrap.

  Koehn, 2004. Where d is clear it looks at one side only, so that p is about
  half of a two-sided one; and where there is none, which here is no difference.
  """
  return (np.abs(replicates) - np.abs(replicates).mean() > abs(d)) | (d == 0)


@np.errstate(all='ignore')  # a seed that diverged has nan or inf
def compare(arms, score, baseline='', test=two_sided):
  """Computes intervals of all arms, and tests against a baseline.

  Args:
    arms: {arm: [S, N, K]}, what each of N examples adds to K sums, for each of
      an arm's S seeds; N is that of all arms.
    score: function of sums [R, K] -> scores [R].
    baseline: the arm that the others are tested against, if it is there.
    test: two_sided or sacrebleu.

  Raises:
    ValueError: arms have different numbers of examples.
  """
  sizes = {name: np.shape(x)[1] for name, x in arms.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f'Arms differ in their number of examples: {sizes}.')
  n = max(sizes.values(), default=0)
  rng = np.random.default_rng(SEED)
  if n:  # how often each replicate has each example
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
    if not np.isfinite(against).all():  # no comparison with nan is true
      p = math.nan
    found[name] = found[name]._replace(difference=d, span=_middle(against), p=p)
  return found


def _middle(replicates):
  """The 2.5th and the 97.5th percentile."""
  return tuple(np.percentile(replicates, [2.5, 97.5]).tolist())
