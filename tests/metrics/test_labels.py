# SPDX-License-Identifier: Apache-2.0
"""GLUE's metrics against their formulas, written out; ties and constants."""

from collections import Counter
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.metrics import labels

BERT = dict(  # the published row whose average is 83.0
  cola=dict(matthews=54.7),
  sst2=dict(accuracy=91.7),
  mrpc=dict(f1=88.8, accuracy=83.8),
  stsb=dict(pearson=88.8, spearman=88.7),
  qqp=dict(f1=87.6, accuracy=90.8),
  mnli=dict(accuracy_m=84.1),
  qnli=dict(accuracy=90.9),
  rte=dict(accuracy=63.2),
)


def counts(gold, predicted):
  """TP, TN, FP, FN of class 1."""
  pairs = Counter(zip(gold, predicted, strict=True))
  return pairs[1, 1], pairs[0, 0], pairs[0, 1], pairs[1, 0]


def matthews(gold, predicted):
  tp, tn, fp, fn = counts(gold, predicted)
  product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
  return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def f1(gold, predicted):
  tp, _, fp, fn = counts(gold, predicted)
  return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def accuracy(gold, predicted):
  return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold)


def pearson(x, y):
  x, y = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
  return (x @ y) / math.sqrt((x @ x) * (y @ y))


def ranks(x):
  """1, 2, ...; of equal numbers the mean of their places."""
  return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


def lists(values):
  return st.lists(st.tuples(values, values), min_size=1, max_size=13)


@given(lists(st.integers(0, 1)))
def test_two_classes(pairs):
  gold, predicted = zip(*pairs, strict=True)
  close = pytest.approx
  assert labels.matthews(gold, predicted) == close(matthews(gold, predicted))
  assert labels.f1(gold, predicted) == close(f1(gold, predicted))
  assert labels.accuracy(gold, predicted) == close(accuracy(gold, predicted))
  assert labels.f1_scores(gold, predicted)['score'] == close(
    (f1(gold, predicted) + accuracy(gold, predicted)) / 2
  )


@given(lists(st.integers(0, 2)))
def test_three_classes(pairs):
  gold, predicted = zip(*pairs, strict=True)
  each = [
    f1([g == c for g in gold], [p == c for p in predicted])
    for c in {*gold, *predicted}
  ]
  scores = labels.f1_scores(gold, predicted, 'macro')
  assert scores['f1'] == pytest.approx(np.mean(each))
  assert scores['accuracy'] == pytest.approx(accuracy(gold, predicted))
  assert scores['score'] == pytest.approx(
    (scores['f1'] + scores['accuracy']) / 2
  )


@given(lists(st.sampled_from([0.0, 1.0, 2.5, 5.0])))
def test_correlations(pairs):
  gold, predicted = zip(*pairs, strict=True)
  scores = labels.correlation_scores(gold, predicted)
  if len(set(gold)) == 1 or len(set(predicted)) == 1:
    assert scores == dict(pearson=0.0, spearman=0.0, score=0.0)
    return
  wanted = pearson(gold, predicted), pearson(ranks(gold), ranks(predicted))
  found = scores['pearson'], scores['spearman']
  assert found == pytest.approx(wanted, abs=1e-9)
  assert scores['score'] == pytest.approx(sum(wanted) / 2, abs=1e-9)


def test_by_hand():
  gold, predicted = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]
  # TP 2, FN 1, FP 1, TN 3
  assert labels.f1(gold, predicted) == pytest.approx(4 / 6)
  assert labels.matthews(gold, predicted) == pytest.approx(5 / 12)
  # Ranks of the gold 1, 2, 3, 4; predicted 1.5, 1.5, 3, 4.
  found = labels.correlation_scores([1, 2, 3, 4], [7, 7, 8, 9])
  assert found['spearman'] == pytest.approx(4.5 / math.sqrt(5 * 4.5))


@pytest.mark.parametrize('constant', [0, 1])
def test_constant_predictions_are_no_warning(constant):
  """Warnings are errors here."""
  gold, predicted = [0, 1, 1], [constant] * 3
  assert labels.matthews(gold, predicted) == 0.0
  assert labels.matthews(predicted, gold) == 0.0
  assert labels.f1(gold, predicted) == pytest.approx(0.8 * constant)
  assert labels.f1(gold, predicted, 'macro') < 0.5
  flat = dict(pearson=0.0, spearman=0.0, score=0.0)
  x = [0.1, 0.2, 0.4]
  assert labels.correlation_scores(x, [constant / 3] * 3) == flat
  nearly = 3 + 1e-16 * np.arange(3)
  assert labels.correlation_scores(x, nearly) == flat


def test_one_that_never_occurs():
  assert labels.f1([0, 0], [0, 0]) == 0.0
  assert labels.f1([2, 2], [2, 2], 'macro') == 1.0


def test_answers():
  """Question a is right as a whole, b is not; F1 is over all answers."""
  scores = labels.answer_scores([1, 0, 1, 1], [1, 0, 1, 0], list('aabb'))
  assert scores['f1a'] == pytest.approx(4 / 5)
  assert scores['exact_match'] == 0.5
  assert scores['score'] == pytest.approx(0.65)


def test_entities():
  answers = [
    ('The U.S.', ('us', 'Canada')),  # articles, punctuation and case are none
    ('New York', ('New York City', 'Boston')),  # precision 1, recall 2/3
    ('Paris', ('London',)),
  ]
  scores = labels.entity_scores(answers)
  assert scores['exact_match'] == pytest.approx(1 / 3)
  assert scores['f1'] == pytest.approx((1 + 0.8 + 0) / 3)
  assert scores['score'] == pytest.approx((1 / 3 + 0.6) / 2)


def test_a_passage_without_entities_scores_nothing():
  """Though an article alone is equal to nothing, as SQuAD compares."""
  scores = labels.entity_scores([('Bo', ('Bo',)), ('', ('The',))])
  assert scores == dict(exact_match=0.5, f1=0.5, score=0.5)


def test_average_of_the_paper():
  assert round(labels.glue_average(BERT), 1) == 83.0
  assert labels.glue_average(BERT | dict(wnli={})) == pytest.approx(
    83.0091, abs=1e-4
  )
  with pytest.raises(ValueError, match='lacks qqp/f1, qqp/accuracy'):
    labels.glue_average(BERT | dict(qqp={}))
