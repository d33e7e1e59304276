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

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

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


def holm(p: Mapping[str, float]) -> dict[str, float]:
  """Corrects the p of several comparisons, by Holm (1979).

  The i-th smallest of m is multiplied by m - i + 1, and is at least as large as
  those before it. Where p is nan it stays so, and counts as a comparison.
  """
  found, least = {}, 0.0
  ordered = sorted(p, key=lambda name: (math.isnan(p[name]), p[name]))
  for i, name in enumerate(ordered):
    least = max(least, min(1.0, p[name] * (len(p) - i)))
    found[name] = p[name] if math.isnan(p[name]) else least
  return {name: found[name] for name in p}


@np.errstate(all='ignore')  # a diverged seed has nan or inf
def pooled(arms: Iterable[Sequence[float]]) -> tuple[float, int]:
  """Computes the standard deviation of seeds in several arms.

  Args:
    arms: the scores of each arm's seeds. Their means may differ.

  Returns:
    (sigma, degrees of freedom); nan and 0 if no arm has two seeds.
  """
  arms = [np.asarray(x, np.float64) for x in arms]
  freedom = sum(len(x) - 1 for x in arms)
  if not freedom:
    return math.nan, 0
  squares = sum(((x - x.mean()) ** 2).sum() for x in arms)
  return float(np.sqrt(squares / freedom)), freedom


def of_sigma(sigma: float, freedom: int) -> tuple[float, float]:
  """Returns the 95 % interval of a `pooled` standard deviation."""
  low, high = stats.chi2.ppf([0.975, 0.025], freedom)
  return sigma * math.sqrt(freedom / low), sigma * math.sqrt(freedom / high)


def of_seeds(
  difference: float, sigma: float, freedom: int, seeds: Sequence[int]
) -> tuple[float, float, float]:
  """Returns the 95 % interval of a difference of means, and p: a t test.

  Args:
    difference: of the mean scores of two arms.
    sigma, freedom: as `pooled` returns them.
    seeds: number of seeds of either arm.
  """
  error = sigma * math.sqrt(sum(1 / n for n in seeds))
  half = float(stats.t.ppf(0.975, freedom)) * error
  t = abs(difference) / error if error else math.inf if difference else 0.0
  p = 2 * float(stats.t.sf(t, freedom))
  return difference - half, difference + half, p


def smallest_effect(
  sigma: float,
  seeds: int,
  comparisons: int = 1,
  power: float = 0.8,
  freedom: float = math.inf,
) -> float:
  """Computes the smallest difference of two arms that their seeds can show.

    (t(1 - 0.05 / 2m) + t(power)) sqrt(2 / S) sigma

  with quantiles t of the degrees of freedom that sigma has, `freedom`. With m
  comparisons, of which Holm tests the largest at 0.05 / m, a difference so
  large is found with the probability `power`, about.
  """
  alpha = 0.05 / comparisons
  t = stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(power, freedom)
  return float(t * math.sqrt(2 / seeds) * sigma)


def _middle(replicates):
  """Returns the 2.5th and the 97.5th percentile."""
  return tuple(np.percentile(replicates, [2.5, 97.5]).tolist())
