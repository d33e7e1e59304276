# SPDX-License-Identifier: Apache-2.0
"""SQuAD's exact match and F1 of answers, in percent, as published.

The definitions are those of the scripts published with the data sets: Rajpurkar
et al., 2016 (v1.1) and 2018 (v2.0). Answers are compared without case, ASCII
punctuation, articles and superfluous blanks. The best of the gold answers
counts.
"""

from collections import Counter
from collections.abc import Sequence
import re
import string

import numpy as np
from numpy.typing import ArrayLike

_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalise(text: str) -> str:
  """Normalises: lower case, no ASCII punctuation, no a/an/the, single blanks.

  The steps have this order: "A-team" is the word ateam, and "the." is an
  article.
  """
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def exact(prediction: str, answers: Sequence[str]) -> float:
  """Returns 1 if the normalised prediction is one of the answers, else 0.

  Args:
    prediction: text.
    answers: texts, at least one; an unanswerable question has ''.
  """
  return float(any(normalise(prediction) == normalise(a) for a in answers))


def f1(prediction: str, answers: Sequence[str], nothing: float = 1.0) -> float:
  """Computes max_a 2 p r / (p + r) = 2 |P & A| / (|P| + |A|), bags of words.

  Args:
    prediction, answers: see `exact`.
    nothing: F1 of two empty bags: 1 in v2.0, 0 in v1.1.
  """
  P = Counter(normalise(prediction).split())

  def one(answer):
    A = Counter(normalise(answer).split())
    words = P.total() + A.total()
    return 2 * (P & A).total() / words if words else nothing

  return max(map(one, answers))


def of_questions(
  predictions: Sequence[str], answers: Sequence[Sequence[str]], optional: bool
) -> dict[str, list[float]]:
  """Computes exact and f1 of each question, 0 to 1.

  Args:
    predictions: a text for each question.
    answers: for each question its gold answers.
    optional: whether a question may have no answer (v2.0). Then an answer that
      is empty after normalisation counts as no answer.

  Raises:
    ValueError: there are no questions, or the lists differ in length.
  """
  if not len(answers) or len(predictions) != len(answers):
    raise ValueError(
      f'{len(predictions)} predictions for {len(answers)} questions; expected '
      'as many, and one at least.'
    )
  if optional:
    answers = [[a for a in x if normalise(a)] or [''] for x in answers]
  pairs, nothing = list(zip(predictions, answers, strict=True)), float(optional)
  return dict(
    exact=[exact(*pair) for pair in pairs],
    f1=[f1(*pair, nothing) for pair in pairs],
  )


def scores(predictions: Sequence[str], answers: Sequence) -> dict:
  """Computes exact and f1 of v1.1 in percent: means of `of_questions`."""
  found = of_questions(predictions, answers, optional=False)
  return {name: _percent(values) for name, values in found.items()}


def scores_or_none(
  predictions: Sequence[str],
  answers: Sequence[Sequence[str]],
  nulls: ArrayLike,
  threshold: float = 0.0,
) -> dict:
  """Computes the scores of v2.0, whose questions may have no answer.

  A question is answered if its null score is at most the threshold; otherwise
  the prediction is "no answer". best_exact and best_f1 are the scores with the
  best threshold for these questions; they are customary, but optimistic. The
  best threshold is a value of `nulls`, or one below them all, which answers
  nothing. Questions with equal null scores are answered together. The published
  script takes them one after another, in the order of its file.

  Args:
    predictions: for each question the best text, whether it is given or not.
    answers: for each question its gold answers, () for none.
    nulls: for each question how much likelier no answer is than the text.
    threshold: threshold of `nulls`.

  Returns:
    exact, f1; has_answer_exact, has_answer_f1, no_answer_exact, no_answer_f1
    (where there are such questions); best_exact, best_exact_threshold, best_f1,
    best_f1_threshold.

  Raises:
    ValueError: as `of_questions`, or a null score is NaN.
  """
  questions = of_questions(predictions, answers, optional=True)
  nulls = np.asarray(nulls, np.float64)
  if nulls.shape != (len(answers),) or np.isnan(nulls).any():
    raise ValueError(
      f'Expected {len(answers)} null scores, got {nulls.shape} of them, '
      f'{np.isnan(nulls).sum()} not a number.'
    )
  # An answer that is empty after normalisation still counts as an answer here.
  has = np.array([bool(every) for every in answers])
  given, found = nulls <= threshold, {}
  for name, said in questions.items():
    said = np.array(said)
    silent = np.where(has, 0.0, 1.0)
    final = np.where(given, said, silent)
    found[name] = _percent(final)
    for part, rows in dict(has_answer=has, no_answer=~has).items():
      if rows.any():
        found[f'{part}_{name}'] = _percent(final[rows])
    best, at = best_threshold(said, silent, nulls)
    found[f'best_{name}'] = 100 * best
    found[f'best_{name}_threshold'] = at
  return found


def best_threshold(
  said: np.ndarray, silent: np.ndarray, nulls: np.ndarray
) -> tuple[float, float]:
  """Finds max_t mean_i (said_i if nulls_i <= t else silent_i), and the least t.

  Args:
    said, silent: score of question i if it is answered, and if not.
    nulls: null scores.

  Returns:
    The mean and t: one of `nulls`, or min(nulls) - 1 to answer nothing.
  """
  order = np.argsort(nulls, kind='stable')
  sums = silent.sum() + np.cumsum((said - silent)[order])
  nulls = nulls[order]
  last = np.append(nulls[1:] != nulls[:-1], True)  # of equal scores
  sums = np.append(silent.sum(), sums[last])
  at = np.append(nulls[0] - 1, nulls[last])
  best = int(np.argmax(sums))
  return float(sums[best] / len(nulls)), float(at[best])


def _percent(values):
  return 100 * float(np.mean(values))
