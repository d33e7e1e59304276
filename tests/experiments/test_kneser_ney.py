# SPDX-License-Identifier: Apache-2.0
"""Kneser-Ney against its formula in dictionaries, and as a distribution."""

from collections import Counter
import subprocess
import sys

import numpy as np
import pytest

from experiments import kneser_ney
from experiments.kneser_ney import KneserNey, discounts
from tests import tiny

V = 11
TRAIN = np.random.default_rng(0).zipf(1.5, (1, 600)) % V
TEST = np.random.default_rng(1).zipf(1.3, (1, 60)) % V


def reference(train, context, token, n, order):
  """p_n(token | context) by the formula."""
  if n == 0:
    return 1 / V
  grams = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
  if n == order:
    c = Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
  else:
    longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
    c = Counter(gram[1:] for gram in longer)
  D = discounts(np.array([c[gram] for gram in grams]))
  h = tuple(context[len(context) - n + 1 :])
  lower = reference(train, context, token, n - 1, order)
  total = sum(c[(*h, w)] for w in range(V))
  if not total or len(h) < n - 1:
    return lower
  taken = sum(D[min(c[(*h, w)], 3)] for w in range(V))
  count = c[(*h, token)]
  return (count - D[min(count, 3)] + taken * lower) / total


@pytest.mark.parametrize('order', [1, 2, 3])
def test_formula(order):
  (test,) = TEST
  (got,) = KneserNey(TRAIN, V, order).log_probs(TEST)
  for i, token in enumerate(test[:23]):
    context = test[max(0, i - order + 1) : i]
    n = min(order, i + 1)
    want = reference(list(TRAIN[0]), list(context), token, n, order)
    assert got[i] == pytest.approx(np.log(want), rel=1e-9)


@pytest.mark.parametrize(
  'context', [(), (1,), (1, 1, 1), (10, 9, 8, 7), (3, 10)]
)
def test_distribution(context):
  """Also after what was never seen, and of tokens that never were."""
  model = KneserNey(TRAIN % 10, V, 4)
  p = [np.exp(model.log_probs([[*context, w]])[0, -1]) for w in range(V)]
  assert sum(p) == pytest.approx(1, abs=1e-12)
  assert min(p) > 0


def test_longer_contexts_help():
  """On a text that is determined by two tokens."""
  text = [0, 1]
  for _ in range(500):
    text.append((text[-1] + 2 * text[-2] + 1) % V)
  rows = [text]
  nll = [-KneserNey(rows, V, n).log_probs(rows).mean() for n in (1, 2, 3)]
  assert nll[2] < 0.5 * nll[1] < nll[0]


def test_a_text_shorter_than_the_order():
  long, short = (KneserNey([[1, 2, 1]], V, n).log_probs([[1]]) for n in (9, 3))
  assert np.array_equal(long, short)


@pytest.mark.parametrize(
  'words, error',
  [
    (['--order=0'], '--order=0; expected at least 1'),
    (['--row_length=9'], '--row_length needs --tokens'),
  ],
)
def test_wrong_arguments_are_one_line(words, error, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['kneser_ney', '--path=.', *words])
  with pytest.raises(SystemExit, match=f'^kneser_ney: {error}'):
    kneser_ney.main()


def test_no_n_gram_reaches_from_one_text_into_the_next():
  """So the order of texts says nothing, and a context ends with its text."""
  rows = TRAIN.reshape(100, 6)
  got = KneserNey(rows, V, 3).log_probs(TEST)
  assert np.array_equal(got, KneserNey(rows[::-1], V, 3).log_probs(TEST))
  model = KneserNey([[0, 1, 2], [3, 4, 5]], V, 2)
  inside, across = np.exp(model.log_probs([[1, 2], [2, 3]])[:, 1])
  assert inside > 0.5 > across


def test_errors_are_one_line(tmp_path):
  command = [sys.executable, '-m', 'experiments.kneser_ney', '--path', tmp_path]
  found = subprocess.run(
    command, cwd=tiny.ROOT, capture_output=True, text=True, check=False
  )
  assert found.returncode == 1
  (line,) = found.stderr.strip().splitlines()
  assert line.startswith(f'kneser_ney: {tmp_path} has no text. Expected')
