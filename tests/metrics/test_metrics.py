# SPDX-License-Identifier: Apache-2.0
"""Metrics against their formulas and against the libraries' own results."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sacrebleu

from collab import metrics
from collab.metrics import tokens

REFERENCES = [
  'The quick brown fox jumps over the lazy dog.',
  'Am 3. Mai 2021 kostete es 12,50 €.',
  'Deutschland',
]
HYPOTHESES = [
  'The quick brown fox jumped over the lazy dog.',
  'Am 3. Mai 2021 kostet es 12,50 €.',
  'Deutschland',
]


def test_bleu_is_that_of_sacrebleu_with_its_signature():
  got = metrics.bleu(HYPOTHESES, REFERENCES)
  want = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
  assert got['score'] == want.score
  assert 0 < got['score'] < 100
  assert got['signature'] == (
    'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|'
    f'version:{sacrebleu.__version__}'
  )
  assert got['precisions'] == want.precisions
  assert got['brevity_penalty'] == want.bp
  assert got['sentences'] == 3
  assert metrics.bleu(REFERENCES, REFERENCES)['score'] == pytest.approx(100)
  assert metrics.bleu(['', '', ''], REFERENCES)['score'] == 0


def test_bleu_of_counts_is_that_of_the_texts():
  counts = np.array(metrics.bleu_counts(HYPOTHESES, REFERENCES))
  for rows in ([0, 1, 2], [1], [2, 0, 0, 1]):
    texts = ([x[i] for i in rows] for x in (HYPOTHESES, REFERENCES))
    want = metrics.bleu(*texts)['score']
    assert metrics.bleu_of_counts(counts[rows].sum(0)) == want
  assert metrics.bleu_of_counts(np.zeros(10)) == 0


CHINESE = [
  '今天天气很好,我们去公园散步。',
  '他昨天买了三本新书。',
  '这家饭馆的菜非常好吃。',
  '火车八点半从上海出发。',
  '她正在学习弹钢琴。',
]
TRANSLATED = [
  '今天天气很好,我们去公园玩。',
  '他昨天买了三本书。',
  '这家饭馆的菜很好吃。',
  '火车八点半离开上海。',
  '她在学习弹钢琴。',
]


@pytest.mark.parametrize('language', ['zh', 'ZH', 'zh-CN', 'zho_Hans', 'cmn'])
def test_bleu_takes_the_tokenizer_of_the_language(language):
  want = sacrebleu.corpus_bleu(TRANSLATED, [CHINESE], tokenize='zh').score
  assert metrics.bleu(TRANSLATED, CHINESE)['score'] < 1 < 50 < want
  got = metrics.bleu(TRANSLATED, CHINESE, language)
  assert got['score'] == want
  assert '|tok:zh|' in got['signature']
  counts = np.array(metrics.bleu_counts(TRANSLATED, CHINESE, language))
  assert metrics.bleu_of_counts(counts.sum(0)) == want
  by = metrics.bleu_by(list('aabbb'), TRANSLATED, CHINESE, language)
  assert [x['score'] > 30 for x in by.values()] == [True, True]
  assert all('|tok:zh|' in x['signature'] for x in by.values())


@pytest.mark.parametrize('language', ['', 'de', 'target', 'pt_BR'])
def test_bleu_of_other_languages_is_13a(language):
  got = metrics.bleu(HYPOTHESES, REFERENCES, language)
  assert got == metrics.bleu(HYPOTHESES, REFERENCES)


@pytest.mark.parametrize('language', ['ja', 'ko', 'jpn_Jpan', 'ko-KR'])
def test_bleu_without_the_package_of_a_language(language, monkeypatch):
  """One line that says what to install, and no other tokenizer instead."""
  code = {'j': 'ja', 'k': 'ko'}[language[0]]
  module = f'sacrebleu.tokenizers.tokenizer_{code}_mecab'
  monkeypatch.setattr(f'{module}.MeCab', None)
  for score in metrics.bleu, metrics.bleu_counts:
    with pytest.raises(ValueError, match=rf'{language}.*sacrebleu\[') as info:
      score(['a'], ['a'], language)
    assert '\n' not in str(info.value)


def test_chrf_is_that_of_sacrebleu_with_its_signature():
  got = metrics.chrf(HYPOTHESES, REFERENCES)
  assert got['score'] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
  assert got['signature'].startswith('nrefs:1|case:mixed|eff:yes|nc:6|nw:0')
  assert metrics.chrf(REFERENCES, REFERENCES)['score'] == pytest.approx(100)


def test_bleu_by_category_scores_short_texts_too():
  got = metrics.bleu_by(['text', 'text', 'name'], HYPOTHESES, REFERENCES)
  assert list(got) == ['name', 'text']
  assert got['name']['score'] == pytest.approx(100)
  assert metrics.bleu(HYPOTHESES[2:], REFERENCES[2:])['score'] == 0
  assert '|eff:yes|' in got['name']['signature']
  assert got['text']['sentences'] == 2
  want = metrics.bleu(HYPOTHESES[:2], REFERENCES[:2])['score']
  assert got['text']['score'] == pytest.approx(want)


@pytest.mark.parametrize(
  'hypotheses, references, message',
  [
    ([], [], 'and some; got 0 and 0'),
    (['a'], ['a', 'b'], 'got 1 and 2'),
    ('a', ['a'], 'hypotheses must be a list of str, got str'),
    (['a'], [['a']], 'references must be a list of str, got list'),
    ([None], ['a'], 'hypotheses must be a list of str, got NoneType'),
  ],
)
def test_wrong_texts(hypotheses, references, message):
  for score in metrics.bleu, metrics.chrf:
    with pytest.raises(ValueError, match=message):
      score(hypotheses, references)
  with pytest.raises(ValueError, match=message):
    metrics.bleu_by(['x'], hypotheses, references)


@pytest.mark.parametrize('categories', ['x', ['x', 'y']])
def test_wrong_categories(categories):
  with pytest.raises(ValueError, match='categories must be a list of 1'):
    metrics.bleu_by(categories, ['a'], ['a'])


# Tokens -----------------------------------------------------------------------

B, T, V = 3, 5, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (B, T, V)).astype(np.float32)
LABELS = RNG.integers(0, V, (B, T))
WEIGHTS = RNG.integers(0, 2, (B, T)) * RNG.uniform(0.5, 2, (B, T))
WEIGHTS = WEIGHTS.astype(np.float32)


@pytest.mark.parametrize('e', [0.0, 0.1])
def test_cross_entropy_is_that_of_smoothed_one_hot_labels(e):
  got, weight = jax.jit(metrics.cross_entropy, static_argnums=3)(
    LOGITS, LABELS, WEIGHTS, e
  )
  p = np.exp(LOGITS.astype(np.float64))
  p /= p.sum(-1, keepdims=True)
  targets = (1 - e) * np.eye(V)[LABELS] + e / V
  want = -(targets * np.log(p)).sum(-1)
  np.testing.assert_allclose(got, (want * WEIGHTS).sum(), rtol=1e-5)
  np.testing.assert_allclose(weight, WEIGHTS.sum(), rtol=1e-6)
  assert got.dtype == weight.dtype == jnp.float32
  one_hot = optax.smooth_labels(jax.nn.one_hot(LABELS, V), e)
  theirs = optax.softmax_cross_entropy(LOGITS, one_hot)
  np.testing.assert_allclose(got, (theirs * WEIGHTS).sum(), rtol=1e-5)


def test_low_precision_logits_are_summed_in_float32():
  low = jnp.asarray(LOGITS, jnp.bfloat16)
  got = metrics.cross_entropy(low, LABELS, WEIGHTS, 0.1)
  want = metrics.cross_entropy(low.astype(jnp.float32), LABELS, WEIGHTS, 0.1)
  assert got[0].dtype == jnp.float32
  assert got == want


@pytest.mark.parametrize('wrong', [-1, V])
@pytest.mark.parametrize('f', [metrics.cross_entropy, metrics.accuracy])
def test_a_label_outside_the_vocabulary_never_counts(f, wrong):
  labels = np.where(WEIGHTS == 0, wrong, LABELS)
  assert (labels == wrong).any()
  # Without weight it may be anything, as may the logits there.
  logits = np.where((WEIGHTS == 0)[..., None], np.float32(np.nan), LOGITS)
  for x in LOGITS, logits:
    assert f(x, labels, WEIGHTS) == f(LOGITS, LABELS, WEIGHTS)
  # With weight it shows.
  total, weight = f(LOGITS, labels, WEIGHTS + 1)
  assert np.isnan(total)
  assert np.isfinite(weight)


@pytest.mark.parametrize('wrong', [np.nan, -np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_accuracy(wrong):
  logits = LOGITS.copy()
  logits[1, 2, 3] = wrong
  weights = np.ones((B, T), np.float32)
  for f in metrics.accuracy, metrics.cross_entropy:
    assert not np.isfinite(f(logits, LABELS, weights)[0])
    weights[1, 2] = 0
    assert np.isfinite(f(logits, LABELS, weights)[0])
    weights[1, 2] = 1


def test_what_has_no_weight_has_no_gradient():
  unused = WEIGHTS == 0
  labels = np.where(unused, -1, LABELS)
  logits = np.where(unused[..., None], np.float32(np.inf), LOGITS)
  grad = jax.grad(lambda x: metrics.cross_entropy(x, labels, WEIGHTS, 0.1)[0])
  got = np.asarray(grad(logits))
  assert (got[unused] == 0).all()
  want = jax.nn.softmax(LOGITS) - 0.9 * np.eye(V)[LABELS] - 0.1 / V
  want = np.asarray(want * WEIGHTS[..., None])
  np.testing.assert_allclose(got[~unused], want[~unused], atol=1e-5)


def test_all_padding_is_zero_of_zero():
  zeros = np.zeros((B, T))
  assert metrics.cross_entropy(LOGITS, LABELS, zeros) == (0, 0)
  assert metrics.accuracy(LOGITS, LABELS, zeros) == (0, 0)


def test_sums_over_parts_are_the_sum_over_all():
  whole = metrics.cross_entropy(LOGITS, LABELS, WEIGHTS, 0.1)
  parts = [
    metrics.cross_entropy(LOGITS[b], LABELS[b], WEIGHTS[b], 0.1)
    for b in range(B)
  ]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_loss_and_nll_in_one_program_cost_one_softmax():
  def both(logits):
    args = logits, LABELS, WEIGHTS
    return metrics.cross_entropy(*args, 0.1), metrics.cross_entropy(*args)

  one = lambda logits: metrics.cross_entropy(logits, LABELS, WEIGHTS, 0.1)
  exps = [
    jax.jit(f).lower(LOGITS).compile().cost_analysis()['transcendentals']
    for f in (one, both)
  ]
  assert exps[0] == exps[1] > 0


@pytest.mark.parametrize(
  'with_bias, part, parts',
  [(False, 2 * 39, 5), (True, 2 * 39, 5), (False, 38, 10), (True, 390, 1)],
)
def test_projected_cross_entropy_is_that_of_all_logits(
  monkeypatch, with_bias, part, parts
):
  B, T, D, V, e = 3, 10, 5, 13, 0.1
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (B, T, D))
  table = jax.random.normal(keys[1], (V, D))
  bias = jax.random.normal(keys[2], (V,)) if with_bias else None
  labels = jnp.arange(B * T).reshape(B, T) % V
  weights = jnp.ones((B, T)).at[1, 7:].set(0).at[2, 3].set(0.5)
  monkeypatch.setattr(tokens, 'PART', part)  # of T = 10 logits of 3 x 13

  def projected(x, table, bias):
    sums = tokens.projected_cross_entropy(x, table, labels, weights, e, bias)
    return 7 * sums['loss'], sums

  def whole(x, table, bias):
    logits = x @ table.T + (0 if bias is None else bias[None, None])
    loss, weight = tokens.cross_entropy(logits, labels, weights, e)
    nll, _ = tokens.cross_entropy(logits, labels, weights)
    right, _ = tokens.accuracy(logits, labels, weights)
    return 7 * loss, dict(loss=loss, nll=nll, right=right, weight=weight)

  wanted = (0, 1, 2) if with_bias else (0, 1)
  both = [
    jax.jit(jax.value_and_grad(f, wanted, has_aux=True))(x, table, bias)
    for f in (projected, whole)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *both
  )
  assert both[0][0][1] == projected(x, table, bias)[1]
  made = jax.make_jaxpr(jax.grad(lambda x: projected(x, table, bias)[0]))(x)
  in_full = any(f'{B},{T},{V}' in str(v) for v in made.jaxpr.eqns)
  assert in_full == (parts == 1)


def test_logits_held():
  held = lambda B, T, V: metrics.logits_held(np.zeros((B, T)), V)
  assert held(48, 64, 4000) == '12.3 of 49.2 MB'
  assert held(5, 7, 100) == '0.0 of 0.0 MB'
  assert held(256, 10, 50_257) == '51.5 of 514.6 MB'  # a token a row


def test_accuracy_counts_the_weight_of_what_is_right():
  right, weight = metrics.accuracy(LOGITS, LABELS, WEIGHTS)
  want = ((LOGITS.argmax(-1) == LABELS) * WEIGHTS).sum()
  assert 0 < want < WEIGHTS.sum()
  np.testing.assert_allclose(right, want, rtol=1e-6)
  np.testing.assert_allclose(weight, WEIGHTS.sum(), rtol=1e-6)


def test_perplexity_of_a_uniform_guess_is_the_size_of_the_vocabulary():
  nll, weight = metrics.cross_entropy(np.zeros((B, T, V)), LABELS, WEIGHTS)
  assert metrics.perplexity(nll, weight) == pytest.approx(V, rel=1e-5)
  assert metrics.perplexity(1e6, 1) == math.inf
  assert math.isnan(metrics.perplexity(math.nan, 1))
  with pytest.raises(ValueError, match='count must be above 0, got 0'):
    metrics.perplexity(1.0, 0)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(labels=LABELS[:2]), r'got logits \(3, 5, 7\), labels \(2, 5\)'),
    (dict(weights=WEIGHTS[..., None]), r'weights \(3, 5, 1\)'),
    (dict(labels=LABELS * 1.0), 'labels must be integers, got float'),
    (dict(logits=np.float32(1), labels=1, weights=1), r'got logits \(\)'),
  ],
)
def test_wrong_arrays(change, message):
  arrays = dict(logits=LOGITS, labels=LABELS, weights=WEIGHTS) | change
  for f in metrics.cross_entropy, metrics.accuracy:
    with pytest.raises(ValueError, match=message):
      f(**arrays)


@pytest.mark.parametrize('e', [-0.1, 1.0, math.nan])
def test_wrong_label_smoothing(e):
  with pytest.raises(ValueError, match=f'label_smoothing must .*got {e}'):
    metrics.cross_entropy(LOGITS, LABELS, WEIGHTS, e)
