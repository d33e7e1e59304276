# SPDX-License-Identifier: Apache-2.0
"""Metrics of GLUE and SuperGLUE: plain functions of gold and predicted labels.

All are fractions (0 to 1, correlations -1 to 1), by scikit-learn and SciPy.
Where a formula is 0/0 (constant predictions, nothing predicted as positive)
they are 0, without a warning.

The functions that end in `_scores` give a dict; 'score' in it is the one
number by which the benchmark ranks: the mean where it names two metrics.
"""

from collections import defaultdict

import numpy as np
from scipy import stats
from sklearn import metrics

from collab.metrics import spans

# What of each task the papers average: 11 numbers; MNLI's is of the matched
# part, and WNLI is left out.
AVERAGED = dict(
  cola=('matthews',),
  sst2=('accuracy',),
  mrpc=('f1', 'accuracy'),
  stsb=('pearson', 'spearman'),
  qqp=('f1', 'accuracy'),
  mnli=('accuracy_m',),
  qnli=('accuracy',),
  rte=('accuracy',),
)


def matthews(gold, predicted) -> float:
  """(TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))."""
  if any(len(set(x)) < 2 for x in (gold, predicted)):
    return 0.0  # scikit-learn's answer as well, but for its warning
  return float(metrics.matthews_corrcoef(gold, predicted))


def accuracy(gold, predicted) -> float:
  """The share of equal labels."""
  return float(metrics.accuracy_score(gold, predicted))


def f1(gold, predicted) -> float:
  """2 TP / (2 TP + FP + FN) of class 1, of the classes 0 and 1."""
  return float(metrics.f1_score(gold, predicted, zero_division=0))


def macro_f1(gold, predicted) -> float:
  """Mean of F1 over the classes that are in gold or predicted."""
  return float(
    metrics.f1_score(gold, predicted, average='macro', zero_division=0)
  )


def pearson(gold, predicted) -> float:
  """Correlation of two lists of numbers; 0 if one of them is constant."""
  return _correlation(stats.pearsonr, gold, predicted)


def spearman(gold, predicted) -> float:
  """Correlation of ranks, the mean rank for ties; 0 if one is constant."""
  return _correlation(stats.spearmanr, gold, predicted)


def _correlation(function, gold, predicted):
  x, y = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
  # Like a constant to rounding: SciPy would warn of a result without meaning.
  flat = any(np.ptp(z) <= 1e-13 * np.abs(z).max() for z in (x, y))
  return 0.0 if flat else float(function(x, y).statistic)


def accuracy_scores(gold, predicted) -> dict:
  value = accuracy(gold, predicted)
  return dict(accuracy=value, score=value)


def matthews_scores(gold, predicted) -> dict:
  value = matthews(gold, predicted)
  return dict(matthews=value, accuracy=accuracy(gold, predicted), score=value)


def f1_scores(gold, predicted) -> dict:
  return _mean(f1=f1(gold, predicted), accuracy=accuracy(gold, predicted))


def macro_f1_scores(gold, predicted) -> dict:
  return _mean(f1=macro_f1(gold, predicted), accuracy=accuracy(gold, predicted))


def correlation_scores(gold, predicted) -> dict:
  return _mean(
    pearson=pearson(gold, predicted), spearman=spearman(gold, predicted)
  )


def answer_scores(gold, predicted, groups) -> dict:
  """MultiRC: F1 over all answers (f1a); questions all right (exact_match).

  Args:
    gold, predicted: 0 or 1 of each answer.
    groups: the question of each.
  """
  right = defaultdict(lambda: True)
  for g, p, group in zip(gold, predicted, groups, strict=True):
    right[group] &= bool(g == p)
  return _mean(
    f1a=f1(gold, predicted), exact_match=float(np.mean(list(right.values())))
  )


def entity_scores(answers) -> dict:
  """ReCoRD: exact match and word F1 as of SQuAD, the best of the gold answers.

  Args:
    answers: of each question the predicted entity and its gold ones. '' is that
      of a passage without entities, and scores 0 whatever the gold ones are.
  """
  exact = [spans.exact(*x) if x[0] else 0.0 for x in answers]
  return _mean(
    exact_match=float(np.mean(exact)),
    f1=float(np.mean([spans.f1(*answer, nothing=0.0) for answer in answers])),
  )


def _mean(**values):
  return values | dict(score=float(np.mean(list(values.values()))))


def glue_average(scores) -> float:
  """The mean of the 11 numbers of AVERAGED, as the papers' tables have it.

  Args:
    scores: {task: its metrics}, in whatever unit.

  Raises:
    ValueError: one is missing.
  """
  wanted = [(task, name) for task in AVERAGED for name in AVERAGED[task]]
  missing = [
    f'{task}/{name}'
    for task, name in wanted
    if name not in scores.get(task, {})
  ]
  if missing:
    raise ValueError(f'The average lacks {", ".join(missing)}.')
  return float(np.mean([scores[task][name] for task, name in wanted]))
