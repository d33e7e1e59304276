# SPDX-License-Identifier: Apache-2.0
"""Metrics of tokens against their formulas and against Optax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collab.attention import target
from collab.metrics import tokens

B, T, V = 3, 5, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (B, T, V)).astype(np.float32)
LABELS = RNG.integers(0, V, (B, T))
WEIGHTS = RNG.integers(0, 2, (B, T)) * RNG.uniform(0.5, 2, (B, T))
WEIGHTS = WEIGHTS.astype(np.float32)


@pytest.mark.parametrize('e', [0.0, 0.1])
def test_cross_entropy_is_that_of_smoothed_one_hot_labels(e):
  got, weight = jax.jit(tokens.cross_entropy, static_argnums=3)(
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


@pytest.mark.parametrize('e', [0.0, 0.1])
def test_z_loss_is_the_square_of_the_log_of_the_partition(e):
  c = 0.3
  got, _ = tokens.cross_entropy(LOGITS, LABELS, WEIGHTS, e, c)
  without, _ = tokens.cross_entropy(LOGITS, LABELS, WEIGHTS, e)
  log_z = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
  want = c * (log_z**2 * WEIGHTS).sum()
  np.testing.assert_allclose(got - without, want, rtol=1e-4)


def test_low_precision_logits_are_summed_in_float32():
  low = jnp.asarray(LOGITS, jnp.bfloat16)
  got = tokens.cross_entropy(low, LABELS, WEIGHTS, 0.1)
  want = tokens.cross_entropy(low.astype(jnp.float32), LABELS, WEIGHTS, 0.1)
  assert got[0].dtype == jnp.float32
  assert got == want


@pytest.mark.parametrize('wrong', [-1, V])
@pytest.mark.parametrize('f', [tokens.cross_entropy, tokens.accuracy])
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
  for f in tokens.accuracy, tokens.cross_entropy:
    assert not np.isfinite(f(logits, LABELS, weights)[0])
    weights[1, 2] = 0
    assert np.isfinite(f(logits, LABELS, weights)[0])
    weights[1, 2] = 1


def test_what_has_no_weight_has_no_gradient():
  unused = WEIGHTS == 0
  labels = np.where(unused, -1, LABELS)
  logits = np.where(unused[..., None], np.float32(np.inf), LOGITS)
  grad = jax.grad(lambda x: tokens.cross_entropy(x, labels, WEIGHTS, 0.1)[0])
  got = np.asarray(grad(logits))
  assert (got[unused] == 0).all()
  want = jax.nn.softmax(LOGITS) - 0.9 * np.eye(V)[LABELS] - 0.1 / V
  want = np.asarray(want * WEIGHTS[..., None])
  np.testing.assert_allclose(got[~unused], want[~unused], atol=1e-5)


def test_all_padding_is_zero_of_zero():
  zeros = np.zeros((B, T))
  assert tokens.cross_entropy(LOGITS, LABELS, zeros) == (0, 0)
  assert tokens.accuracy(LOGITS, LABELS, zeros) == (0, 0)


def test_sums_over_parts_are_the_sum_over_all():
  whole = tokens.cross_entropy(LOGITS, LABELS, WEIGHTS, 0.1)
  parts = [
    tokens.cross_entropy(LOGITS[b], LABELS[b], WEIGHTS[b], 0.1)
    for b in range(B)
  ]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_loss_and_nll_in_one_program_cost_one_softmax():
  def both(logits):
    args = logits, LABELS, WEIGHTS
    return tokens.cross_entropy(*args, 0.1), tokens.cross_entropy(*args)

  one = lambda logits: tokens.cross_entropy(logits, LABELS, WEIGHTS, 0.1)
  exps = [
    jax.jit(f).lower(LOGITS).compile().cost_analysis()['transcendentals']
    for f in (one, both)
  ]
  assert exps[0] == exps[1] > 0


@pytest.mark.parametrize(
  'with_bias, part, parts, cap',
  [
    pytest.param(False, 2 * 39, 5, [], marks=pytest.mark.slow),
    (True, 2 * 39, 5, [1.5]),
    pytest.param(False, 38, 10, [1.5], marks=pytest.mark.slow),
    (True, 390, 1, []),
  ],
)
def test_projected_cross_entropy_is_that_of_all_logits(
  monkeypatch, with_bias, part, parts, cap
):
  B, T, D, V, e, c = 3, 10, 5, 13, 0.1, 0.3
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (B, T, D))
  table = jax.random.normal(keys[1], (V, D))
  bias = jax.random.normal(keys[2], (V,)) if with_bias else None
  labels = jnp.arange(B * T).reshape(B, T) % V
  weights = jnp.ones((B, T)).at[1, 7:].set(0).at[2, 3].set(0.5)
  most = dict(cpu=part)
  monkeypatch.setattr(tokens, 'PART', most)  # of T = 10 logits of 3 x 13

  def projected(x, table, bias):
    output = table, bias, *cap
    sums = tokens.projected_cross_entropy(x, output, labels, weights, e, c)
    return 7 * sums['loss'], sums

  def whole(x, table, bias):
    logits = x @ table.T + (0 if bias is None else bias[None, None])
    for c_max in cap:
      logits = c_max * jnp.tanh(logits / c_max)
    loss, weight = tokens.cross_entropy(logits, labels, weights, e, c)
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
  held = lambda B, T, V: tokens.logits_held(np.zeros((B, T)), V)
  assert held(48, 64, 4000) == '12.3 of 49.2 MB'
  assert held(5, 7, 100) == '0.0 of 0.0 MB'
  assert held(256, 10, 50_257) == '51.5 of 514.6 MB'  # a token a row


def test_accuracy_counts_the_weight_of_what_is_right():
  right, weight = tokens.accuracy(LOGITS, LABELS, WEIGHTS)
  want = ((LOGITS.argmax(-1) == LABELS) * WEIGHTS).sum()
  assert 0 < want < WEIGHTS.sum()
  np.testing.assert_allclose(right, want, rtol=1e-6)
  np.testing.assert_allclose(weight, WEIGHTS.sum(), rtol=1e-6)


def test_perplexity_of_a_uniform_guess_is_the_size_of_the_vocabulary():
  nll, weight = tokens.cross_entropy(np.zeros((B, T, V)), LABELS, WEIGHTS)
  assert tokens.perplexity(nll, weight) == pytest.approx(V, rel=1e-5)
  assert tokens.perplexity(1e6, 1) == math.inf
  assert math.isnan(tokens.perplexity(math.nan, 1))
  with pytest.raises(ValueError, match='count must be above 0, got 0'):
    tokens.perplexity(1.0, 0)


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
  for f in tokens.cross_entropy, tokens.accuracy:
    with pytest.raises(ValueError, match=message):
      f(**arrays)


@pytest.mark.parametrize('c', [-0.1, math.inf, math.nan])
def test_wrong_z_loss(c):
  with pytest.raises(ValueError, match=f'z_loss must .*got {c}'):
    tokens.cross_entropy(LOGITS, LABELS, WEIGHTS, z_loss=c)


@pytest.mark.parametrize('e', [-0.1, 1.0, math.nan])
def test_wrong_label_smoothing(e):
  with pytest.raises(ValueError, match=f'label_smoothing must .*got {e}'):
    tokens.cross_entropy(LOGITS, LABELS, WEIGHTS, e)


def test_an_accelerator_holds_more_logits_than_a_cpu():
  labels, V = np.zeros((16, 1024), np.int32), 50_304
  assert tokens.logits_held(labels, V) == '12.9 of 3296.7 MB'
  with target.lowering_for(target.Target('tpu')):
    assert tokens.logits_held(labels, V) == '206.0 of 3296.7 MB'
