# SPDX-License-Identifier: Apache-2.0
"""Metrics of GLUE and SuperGLUE: plain functions of gold and predicted labels.

All are fractions (0 to 1; correlations -1 to 1), computed by scikit-learn and
SciPy. A formula that is 0/0 (constant predictions, nothing predicted as
positive) gives 0 without a warning.

The functions that end in `_scores` return a dict. Its 'score' is the one number
that the benchmark ranks by: the mean if the benchmark names two metrics.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from flax.traverse_util import flatten_dict
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn import metrics

from collab.metrics import spans

# The 11 numbers that the papers average: without WNLI, and of MNLI only the
# matched part.
AVERAGED = str.split(
  'cola/matthews sst2/accuracy mrpc/f1 mrpc/accuracy stsb/pearson '
  'stsb/spearman qqp/f1 qqp/accuracy mnli/accuracy_m qnli/accuracy rte/accuracy'
)


def matthews(gold: ArrayLike, predicted: ArrayLike) -> float:
  """Computes (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))."""
  if any(len(set(x)) < 2 for x in (gold, predicted)):
    return 0.0  # as scikit-learn, but without its warning
  return float(metrics.matthews_corrcoef(gold, predicted))


def accuracy(gold: ArrayLike, predicted: ArrayLike) -> float:
  """Computes the share of equal labels."""
  return float(metrics.accuracy_score(gold, predicted))


def f1(gold: ArrayLike, predicted: ArrayLike, average: str = 'binary') -> float:
  """Computes 2 TP / (2 TP + FP + FN) of class 1, for the classes 0 and 1.

  average='macro' is the mean over all classes in gold or predicted.
  """
  return float(
    metrics.f1_score(gold, predicted, average=average, zero_division=0)
  )


def accuracy_scores(gold: ArrayLike, predicted: ArrayLike) -> dict:
  return _mean(accuracy=accuracy(gold, predicted))


def matthews_scores(gold: ArrayLike, predicted: ArrayLike) -> dict:
  value = matthews(gold, predicted)
  return dict(matthews=value, accuracy=accuracy(gold, predicted), score=value)


def f1_scores(
  gold: ArrayLike, predicted: ArrayLike, average: str = 'binary'
) -> dict:
  return _mean(
    f1=f1(gold, predicted, average), accuracy=accuracy(gold, predicted)
  )


def correlation_scores(gold: ArrayLike, predicted: ArrayLike) -> dict:
  """Computes the correlation of numbers (pearson) and of ranks (spearman).

  Ties get their mean rank. Both are 0 if one of the lists is constant.
  """
  x, y = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
  # Constant up to rounding: SciPy would warn that the result is undefined.
  if any(np.ptp(z) <= 1e-13 * np.abs(z).max() for z in (x, y)):
    return _mean(pearson=0.0, spearman=0.0)
  return _mean(
    pearson=float(stats.pearsonr(x, y).statistic),
    spearman=float(stats.spearmanr(x, y).statistic),
  )


def answer_scores(
  gold: ArrayLike, predicted: ArrayLike, groups: Iterable[Hashable]
) -> dict:
  """Computes MultiRC's F1 over all answers (f1a) and share of right questions.

  Args:
    gold, predicted: 0 or 1 for each answer.
    groups: the question of each answer.
  """
  right = defaultdict(lambda: True)
  for g, p, group in zip(gold, predicted, groups, strict=True):
    right[group] &= bool(g == p)
  return _mean(
    f1a=f1(gold, predicted), exact_match=float(np.mean(list(right.values())))
  )


def entity_scores(answers: Iterable[tuple]) -> dict:
  """Computes ReCoRD's exact match and word F1, like SQuAD's.

  The best of the gold answers counts.

  Args:
    answers: for each question the predicted entity and the gold ones. The
      prediction is '' where the passage has no entities; it scores 0.
  """
  exact = [spans.exact(*x) if x[0] else 0.0 for x in answers]
  return _mean(
    exact_match=float(np.mean(exact)),
    f1=float(np.mean([spans.f1(*answer, nothing=0.0) for answer in answers])),
  )


def _mean(**values):
  return values | dict(score=float(np.mean(list(values.values()))))


def glue_average(scores: Mapping[str, Mapping[str, float]]) -> float:
  """Computes the mean of the 11 numbers of AVERAGED, as in the papers' tables.

  Args:
    scores: {task: its metrics}, in any unit.

  Raises:
    ValueError: a number is missing.
  """
  known = flatten_dict(scores, sep='/')
  if missing := [name for name in AVERAGED if name not in known]:
    raise ValueError(f'The average lacks {", ".join(missing)}.')
  return float(np.mean([known[name] for name in AVERAGED]))
