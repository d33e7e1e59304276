# SPDX-License-Identifier: Apache-2.0
"""Intervals against sacreBLEU's own and what is known; metrics as sums."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from collab.metrics import bleu, labels
from experiments import intervals, metric

N = 211
WORDS = np.array(['der', 'die', 'mann', 'frau', 'hund', 'geht', 'steht', '.'])


def texts(rng, references=None):
  """Sentences; or those with some words replaced."""
  if references is None:
    return [' '.join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(N)]
  found = []
  for line in references:
    words = np.array(line.split())
    other = rng.choice(WORDS, len(words))
    found.append(' '.join(np.where(rng.random(len(words)) < 0.3, other, words)))
  return found


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_bleu_of_one_seed_is_sacrebleus_paired_bootstrap(rng, monkeypatch):
  monkeypatch.setenv('SACREBLEU_SEED', str(intervals.SEED))
  references = texts(rng)
  ours = {name: texts(rng, references) for name in ('mha', 'b', 'c')}
  test = PairedTest(
    list(ours.items()),
    dict(BLEU=BLEU(references=[references])),
    references=None,
    test_type='bs',
    n_samples=intervals.REPLICATES,
  )
  _, found = test()
  wanted = dict(zip(ours, found['BLEU'], strict=True))
  counts = {k: [bleu.counts(x, references)] for k, x in ours.items()}
  got = intervals.compare(counts, metric.BLEU.score, 'mha', metric.BLEU.test)
  for name, want in wanted.items():
    assert got[name].mean == pytest.approx(want.score, abs=1e-12)
    half = (got[name].high - got[name].low) / 2
    assert half == pytest.approx(want.ci, rel=0.01)  # another percentile
    assert got[name].p == want.p_value
  assert 0 < got['b'].p < 1
  assert got['mha'].difference is None


def test_interval_of_a_mean(rng):
  """Of one seed it is that of the normal approximation."""
  x = rng.normal(5, 2, size=(1, 997, 1))
  ones = np.ones_like(x)
  arms = dict(a=np.concatenate([x, ones], 2))
  got = intervals.compare(arms, lambda s: s[..., 0] / s[..., 1])['a']
  half = 1.96 * x.std() / np.sqrt(997)
  assert got.mean == pytest.approx(x.mean())
  assert (got.low, got.high) == pytest.approx(
    (x.mean() - half, x.mean() + half), abs=0.15 * half
  )
  assert (got.seeds, got.std, got.p) == (1, None, None)


def test_seeds_add_to_the_interval(rng):
  """Of examples that are all alike, seeds are all there is; and the other way.

  Examples are drawn once for all seeds: more seeds on the same test set do not
  make it larger.
  """
  share = lambda s: s[..., 0] / s[..., 1]
  ones = np.ones((5, 400, 1))
  seeds = np.broadcast_to(np.arange(5.0)[:, None, None], ones.shape)
  examples = np.broadcast_to(rng.random((1, 400, 1)), ones.shape)
  arms = dict(seeds=seeds, examples=examples, one=examples[:1])
  arms = {k: np.concatenate([x, ones[: len(x)]], 2) for k, x in arms.items()}
  got = intervals.compare(arms, share, 'one')
  expected = 1.96 * np.arange(5).std() / np.sqrt(5)
  assert got['seeds'].high - 2 == pytest.approx(expected, rel=0.1)
  assert got['seeds'].std == pytest.approx(np.sqrt(2.5))
  assert got['examples'][1:5] == pytest.approx(
    (got['one'].mean, 0, got['one'].low, got['one'].high)
  )
  assert got['examples'].difference == pytest.approx(0, abs=1e-12)
  assert got['examples'].p == 1
  assert got['seeds'].span[0] > 0 > got['examples'].span[0] - 1e-9
  assert got['seeds'].p < 0.1


def test_an_arm_does_not_change_the_others(rng):
  arms = {name: rng.random((3, 50, 1)) for name in 'abc'}
  score = lambda s: s[..., 0]
  whole = intervals.compare(arms, score, 'a')
  part = intervals.compare({k: arms[k] for k in 'ca'}, score, 'a')
  assert part == {k: whole[k] for k in 'ac'}
  with pytest.raises(AssertionError):
    intervals.compare(arms | dict(d=np.ones((1, 49, 1))), score)


@pytest.mark.parametrize(
  'of, scores',
  [
    (metric.ACCURACY, labels.accuracy_scores),
    (metric.F1_ACCURACY, labels.f1_scores),
    (metric.CORRELATION, labels.correlation_scores),
  ],
)
def test_metrics_are_functions_of_sums(of, scores, rng):
  gold = rng.integers(0, 2, 97)
  ours = np.where(rng.random(97) < 0.7, gold, 1 - gold)
  if of is metric.CORRELATION:
    gold = np.round(gold + rng.random(97), 1)
    ours = gold + rng.normal(size=97)
  kept = dict(gold=gold.tolist(), predicted=ours.tolist())
  got = of.score(of.sums(kept, {}).sum(0))
  assert got == pytest.approx(of.value(scores(gold, ours)), rel=1e-12)


def test_perplexity_and_top1_are_functions_of_sums(rng):
  nll, tokens = rng.random(31) * 100, rng.integers(1, 50, 31)
  found = dict(words=400, perplexity=np.exp(nll.sum() / 400), top1=2 / 3)
  kept = dict(nll=nll.tolist(), tokens=tokens.tolist(), right=[1, 0, 1])
  for of in (metric.PERPLEXITY, metric.TOP1):
    got = of.score(of.sums(kept, found).sum(0))
    assert got == pytest.approx(of.value(found), rel=1e-12)


def test_holm():
  got = intervals.holm(dict(a=0.02, b=0.01, c=0.04, d=math.nan))
  assert got.pop('d') is math.nan
  assert got == pytest.approx(dict(a=0.06, b=0.04, c=0.08))
  assert intervals.holm(dict(a=0.9, b=0.5)) == dict(a=1.0, b=1.0)
  assert list(intervals.holm(dict(a=0.03, b=0.02))) == ['a', 'b']
  # The larger p is never below the smaller one.
  assert intervals.holm(dict(a=0.02, b=0.021))['b'] == pytest.approx(0.04)


def test_pooled_sigma_does_not_see_means():
  sigma, freedom = intervals.pooled([[1, 3], [101, 103], [7]])
  assert (sigma, freedom) == (pytest.approx(math.sqrt(2)), 2)
  assert intervals.pooled([[5]])[1] == 0
  low, high = intervals.of_sigma(1.0, 7)  # from a table of chi squared
  assert low == pytest.approx(math.sqrt(7 / 16.013), rel=1e-4)
  assert high == pytest.approx(math.sqrt(7 / 1.690), rel=1e-3)


def test_t_test_of_seeds_is_scipys():
  a, b = np.random.default_rng(0).normal(size=(2, 4))
  want = stats.ttest_ind(a, b)
  found = intervals.pooled([a, b])
  low, high, p = intervals.of_seeds(a.mean() - b.mean(), *found, (4, 4))
  assert p == pytest.approx(want.pvalue)
  assert (low, high) == pytest.approx(want.confidence_interval())


def test_smallest_effect_is_found_four_times_of_five():
  rng = np.random.default_rng(0)
  d = intervals.smallest_effect(2.0, seeds=3)
  assert d == pytest.approx(2.29 * 2, rel=1e-2)
  a, b = rng.normal(0, 2.0, (2, 20_000, 3)).mean(2)
  z = (a + d - b) / (2.0 * math.sqrt(2 / 3))
  assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.01)
  assert intervals.smallest_effect(2.0, 3, 17) == pytest.approx(6.24, rel=1e-2)
