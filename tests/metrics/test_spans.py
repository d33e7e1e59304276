# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 as SQuAD defines them, worked out by hand and by force."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.metrics import spans

WORDS = ('the', 'a', 'Cat', 'cat', 'dog', 'dog.', '--', 'theatre')
texts = st.lists(st.sampled_from(WORDS), max_size=4).map(' '.join)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('The Cat', 'cat'),
    ('  two \t words\n', 'two words'),
    ('U.S.', 'us'),
    ('the.', ''),
    ('well-known', 'wellknown'),
    ('$5.3 million', '53 million'),
    ('Anthem, a theatre', 'anthem theatre'),  # articles inside words stay
    ('A-team', 'ateam'),
    ('an  A the', ''),
    ('a\u2013b', '\u2013b'),  # an en dash is not removed, but ends a word
    ('\u201cthe\u201d cat', '\u201c \u201d cat'),
    ('d\u2019a', 'd\u2019'),
    ('Ça va', 'ça va'),
    ('caf\u00e9 \u3000 x', 'café x'),
    ('', ''),
    ('!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~', ''),
  ],
)
def test_normalise(text, expected):
  assert spans.normalise(text) == expected


@pytest.mark.parametrize(
  'prediction, answers, exact, f1',
  [
    ('The cat', ['cat'], 1, 1),
    ('cat dog', ['cat'], 0, 2 / 3),  # p 1/2, r 1
    ('cat', ['cat dog bird'], 0, 1 / 2),  # p 1, r 1/3
    ('cat cat', ['cat'], 0, 2 / 3),  # bags, not sets
    ('cat cat dog', ['cat dog dog'], 0, 2 / 3),
    ('cat', ['dog', 'cat dog', 'a cat.'], 1, 1),  # the best counts
    ('cat dog', ['dog', 'bird', 'cat mouse'], 0, 2 / 3),
    ('bird', ['dog', 'cat'], 0, 0),
    ('', ['cat'], 0, 0),
    ('cat', [''], 0, 0),
    ('dog cat', ['cat dog'], 0, 1),
  ],
)
def test_one_question(prediction, answers, exact, f1):
  assert spans.exact(prediction, answers) == exact
  assert spans.f1(prediction, answers) == pytest.approx(f1)
  assert spans.f1(prediction, answers, nothing=0.0) == pytest.approx(f1)


def test_both_empty():
  """'the' is nothing once it is normalised."""
  for prediction, answer in [('', ''), ('the', ''), ('', 'An'), ('...', 'a')]:
    assert spans.exact(prediction, [answer]) == 1
    assert spans.f1(prediction, [answer]) == 1
  assert spans.scores(['a'], [['the']]) == dict(exact=100.0, f1=0.0)  # of v1.1


@given(texts, st.lists(texts, min_size=1, max_size=3))
@settings(deadline=None)
def test_f1_by_its_definition(prediction, answers):
  """Harmonic mean of precision and recall, words crossed off one by one."""

  def one(answer):
    got, left = (spans.normalise(t).split() for t in (prediction, answer))
    sizes, same = (len(got), len(left)), 0
    for word in got:
      if word in left:
        left.remove(word)
        same += 1
    if not all(sizes):
      return float(sizes == (0, 0))
    p, r = same / sizes[0], same / sizes[1]
    return 2 * p * r / (p + r) if same else 0.0

  f1 = spans.f1(prediction, answers)
  assert f1 == pytest.approx(max(map(one, answers)))
  assert spans.exact(prediction, answers) <= f1 <= 1


def test_means():
  found = spans.scores(
    ['cat', 'the dog', 'x'], [['Cat!'], ['a dog ran'], ['y']]
  )
  assert found['exact'] == pytest.approx(100 / 3)
  assert found['f1'] == pytest.approx(100 * (1 + 2 / 3) / 3)
  assert spans.scores(['x'] * 5, [['y']] * 5) == dict(exact=0.0, f1=0.0)


# v2.0 -------------------------------------------------------------------------

PREDICTIONS = ['cat', 'dog ran', 'bird', 'the', 'fish']
ANSWERS = [['cat'], ['dog', ''], [], [], ['fox', 'a']]
NULLS = [-2.0, -1.0, 0.0, 1.0, 3.0]


def test_no_answer():
  found = spans.scores_or_none(PREDICTIONS, ANSWERS, NULLS)
  # Given: cat 1, dog ran (0, 2/3), bird 0; kept back: 1 and 0.
  assert found == {
    'exact': pytest.approx(100 * 2 / 5),
    'f1': pytest.approx(100 * (2 + 2 / 3) / 5),
    'has_answer_exact': pytest.approx(100 / 3),
    'has_answer_f1': pytest.approx(100 * (1 + 2 / 3) / 3),
    'no_answer_exact': 50.0,
    'no_answer_f1': 50.0,
    'best_exact': pytest.approx(60.0),  # 1, 0; 1, 1; 0
    'best_exact_threshold': -2.0,
    'best_f1': pytest.approx(100 * (3 + 2 / 3) / 5),
    'best_f1_threshold': -1.0,
  }


@pytest.mark.parametrize('threshold, exact', [(-9, 40), (-2, 60), (0.5, 40)])
def test_threshold(threshold, exact):
  found = spans.scores_or_none(PREDICTIONS, ANSWERS, NULLS, threshold)
  assert found['exact'] == pytest.approx(exact)
  assert found['best_exact'] == pytest.approx(60)


def test_answers_that_are_nothing():
  """The gold answer 'the' is as none, but its question has an answer."""
  found = spans.scores_or_none(['', 'cat'], [['the'], ['the', 'cat']], [0, 0])
  assert found['exact'] == found['has_answer_exact'] == 100
  assert 'no_answer_exact' not in found
  # Keeping back is wrong for both, as in the published script.
  found = spans.scores_or_none(['', 'cat'], [['the'], ['cat']], [1, 1])
  assert found['exact'] == 0


def test_only_questions_without_answers():
  found = spans.scores_or_none(['x', 'y'], [[], []], [-1.0, 1.0])
  assert found['exact'] == found['no_answer_f1'] == 50
  assert found['best_exact'] == 100
  assert found['best_exact_threshold'] == -2.0  # below them all: none given
  assert not [name for name in found if 'has' in name]


@given(
  st.lists(
    st.tuples(
      texts, st.lists(texts, max_size=2), st.sampled_from([-1.5, 0.0, 0.5, 2.0])
    ),
    min_size=1,
    max_size=7,
  ),
  st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_best_threshold_by_force(rows, random):
  """No threshold gives more, the one told gives as much; order is nothing."""

  def at(rows, threshold):
    return spans.scores_or_none(*zip(*rows, strict=True), threshold)

  told = at(rows, 0.0)
  every = [at(rows, t) for t in (-9.0, -1.5, 0.0, 0.5, 1.0, 2.0)]
  for name in ('exact', 'f1'):
    best = told[f'best_{name}']
    assert best == pytest.approx(max(one[name] for one in every))
    threshold = told[f'best_{name}_threshold']
    assert at(rows, threshold)[name] == pytest.approx(best)
    lower = [one for one in every if one[name] > best + 1e-9]
    assert not lower
  mixed = list(rows)
  random.shuffle(mixed)
  assert at(mixed, 0.0) == pytest.approx(told)


def test_threshold_without_ties():
  """As the published script has it: one after the other, by null score."""
  said, silent = np.array([1, 0, 0.5, 1]), np.array([0, 1, 0, 0.0])
  best, at = spans.best_threshold(said, silent, np.array([0.1, 0.2, 0.3, 0.4]))
  # After each: 2/4, 1/4, 1.5/4, 2.5/4.
  assert (best, at) == (2.5 / 4, 0.4)
  best, at = spans.best_threshold(said[:3], silent[:3], np.arange(3))
  assert (best, at) == (2 / 3, 0.0)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (([], []), '0 predictions for 0 questions'),
    ((['x'], [['x'], ['y']]), '1 predictions for 2 questions'),
  ],
)
def test_wrong_numbers(arguments, message):
  with pytest.raises(ValueError, match=message):
    spans.scores(*arguments)
  with pytest.raises(ValueError, match=message):
    spans.scores_or_none(*arguments, [0.0])


@pytest.mark.parametrize('nulls', [[0.0], [0.0, np.nan], [[0.0, 1.0]]])
def test_wrong_null_scores(nulls):
  with pytest.raises(ValueError, match='Expected 2 null scores'):
    spans.scores_or_none(['x', 'y'], [['x'], []], nulls)
