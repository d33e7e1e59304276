# SPDX-License-Identifier: Apache-2.0
"""Means and covariances of layers' inputs, against NumPy's."""

import jax.numpy as jnp
import numpy as np
import pytest

from collab import models
from collab.convert import calibration, intercept, source
from collab.convert.decompose import input_statistics
from tests.convert import checkpoints
from tests.models import small

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, small.V, (6, 7))


def build(**more):
  fields = dict(vocab_size=small.V, dim=small.D, num_layers=2, mlp_dim=11)
  fields['attention'] = small.ATTENTION['mha']
  return models.build('encoder', **fields | more)


def batch(tokens, length=None, lengths=None):
  """Texts in rows of a length, padded with noise."""
  B, n = tokens.shape
  length = length or n
  lengths = np.full(B, n) if lengths is None else np.asarray(lengths)
  wide = RNG.integers(0, small.V, (B, length))
  wide[:, :n] = tokens
  return dict(tokens=wide, types=np.zeros_like(wide), lengths=lengths)


@pytest.fixture(scope='module')
def model():
  model = build()
  return model, small.parameters(model, batch(TOKENS))


def collect(model, *batches):
  return input_statistics.collect(*model, batches)


def close(got, want, tolerance=1e-5):
  for a, b in zip(got[:7], want[:7], strict=True):
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def test_are_those_of_the_inputs(model):
  lengths = [7, 3, 5, 1, 7, 2]
  found = collect(model, batch(TOKENS, lengths=lengths))
  _, seen = intercept.run(
    *model, batch(TOKENS, lengths=lengths), wanted=intercept.paths(model[1])
  )
  for path, (call,) in seen.items():
    rows = [
      np.asarray(x[:n], 'f8') for x, n in zip(call.x, lengths, strict=True)
    ]
    x = np.concatenate(rows)
    within = np.concatenate([row - row.mean(0) for row in rows])
    cov, within = np.cov(x.T, bias=True), within.T @ within / len(x)
    more = [
      input_statistics.SHRINK * np.trace(c) * np.eye(small.D)
      for c in (cov, within)
    ]
    cov, within = cov + more[0] / small.D, within + more[1] / small.D
    o = np.concatenate(
      [
        np.asarray(o[:n], 'f8').reshape(n, -1)
        for o, n in zip(call.o, lengths, strict=True)
      ]
    )
    of_o = np.cov(o.T, bias=True)
    of_o += (
      input_statistics.SHRINK * np.trace(of_o) / len(of_o) * np.eye(len(of_o))
    )
    want = x.mean(0), cov, x.mean(0), cov, within, o.mean(0), of_o
    close(found[path], want)


def test_padding_is_not_seen(model):
  bare = collect(model, batch(TOKENS))
  padded = collect(model, batch(TOKENS, length=11))
  for path in bare:
    close(padded[path], bare[path])
  other = collect(model, batch(TOKENS, lengths=[7, 7, 7, 7, 7, 6]))
  for path in bare:
    assert np.abs(other[path].x_cov - bare[path].x_cov).max() > 1e-4


def test_rows_of_one_token_have_nothing_to_look_at(tmp_path):
  folder = checkpoints.with_words(tmp_path / 'llama', 'llama_Model')
  (tmp_path / 'text').write_text('one two three\n')
  found = source.read(folder)
  seen = calibration.read(found, tmp_path / 'text', length=1)
  with pytest.raises(ValueError, match='have no row of two tokens'):
    input_statistics.collect(seen.model, found.params, seen.batches, True)


def test_batches_add_up(model):
  whole = collect(model, batch(TOKENS))
  parts = collect(model, batch(TOKENS[:4]), batch(TOKENS[4:], length=9))
  for path in whole:
    close(parts[path], whole[path])


def test_a_shared_layer_counts_all_its_calls():
  model = build(shared=True)
  model = model, small.parameters(model, batch(TOKENS))
  (path,) = intercept.paths(model[1])
  found = collect(model, batch(TOKENS))[path]
  _, seen = intercept.run(*model, batch(TOKENS), wanted=[path])
  x = np.concatenate([call.x.reshape(-1, small.D) for call in seen[path]])
  assert len(x) == 2 * TOKENS.size
  np.testing.assert_allclose(found.x_mean, x.mean(0), atol=1e-5)


def test_where_queries_look():
  """By loops over heads, queries and keys; a batch may have fewer lags."""
  attention = dict(name='gqa', num_heads=4, kv_heads=2, qkv_features=16)
  fields = dict(vocab_size=small.V, dim=small.D, num_layers=1, mlp_dim=11)
  attention |= dict(rope={})
  model = models.build('decoder', attention=attention, **fields)
  batches = [dict(tokens=TOKENS), dict(tokens=TOKENS[:2, :5])]
  params = small.parameters(model, batches[0])
  (path,) = intercept.paths(params)
  found = input_statistics.collect(model, params, batches, attended=True)[path]
  found, out = found.attended, intercept.get(params, (*path, 'out'))['kernel']
  effects, lags, mixed, n = np.zeros(4), np.zeros(7), [[] for _ in range(4)], 0
  for batch in batches:
    _, seen = intercept.run(model, params, batch, [path], heads=True)
    (call,) = seen[path]
    q, k, v = (np.asarray(x, 'f8') for x in call.heads[:3])
    for b, t in np.ndindex(batch['tokens'].shape):
      n += 1
      for h in range(4):
        scores = k[b, : t + 1, h // 2] @ q[b, t, h] / q.shape[-1] ** 0.5
        p = np.exp(scores - scores.max())
        p /= p.sum()
        mixed[h].append(p @ np.asarray(call.y[b, : t + 1], 'f8'))
        o = p @ v[b, : t + 1, h // 2]
        for s in range(t + 1):
          counts = np.sum((p[s] * (v[b, s, h // 2] - o) @ out[h]) ** 2)
          effects[h] += counts
          lags[t - s] += counts
  np.testing.assert_allclose(found.effects, effects / n, rtol=1e-4)
  np.testing.assert_allclose(found.lags, lags / lags.sum(), atol=1e-5)
  np.testing.assert_allclose(found.mean, np.mean(mixed, 1), atol=1e-5)
  cov = np.mean([np.cov(np.transpose(x), bias=True) for x in mixed], 0)
  cov += input_statistics.SHRINK * np.trace(cov) / small.D * np.eye(small.D)
  np.testing.assert_allclose(found.cov, cov, atol=1e-5)


def test_queries_and_memory_are_told_apart():
  inputs = intercept.Inputs(
    x=jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32),
    y=jnp.asarray(RNG.normal(size=(2, 7, 5)) + 2, jnp.float32),
    x_valid=jnp.array([[True] * 3, [True, False, False]]),
    y_valid=jnp.arange(7)[None] < jnp.array([[7], [4]]),
    mask=None,
    o=jnp.asarray(RNG.normal(size=(2, 3, 1, 2)), jnp.float32),
  )
  sums = input_statistics._sums(inputs, None)
  sums = {n: np.asarray(s, 'f8') for n, s in sums.items()}
  found = input_statistics._moments(('cross',), sums)
  x = np.asarray(inputs.x, 'f8')[np.asarray(inputs.x_valid)]
  rows = [np.asarray(inputs.y[0], 'f8'), np.asarray(inputs.y[1, :4], 'f8')]
  np.testing.assert_allclose(found.x_mean, x.mean(0), atol=1e-6)
  np.testing.assert_allclose(
    found.y_mean, np.concatenate(rows).mean(0), atol=1e-6
  )
  # What a query sees: 3 queries see the first row's keys, 1 the second's.
  one, two = (np.cov(row.T, bias=True) for row in rows)
  want = (3 * one + two) / 4
  want += input_statistics.SHRINK * np.trace(want) / 5 * np.eye(5)
  np.testing.assert_allclose(found.y_within, want, atol=1e-5)


def test_white_is_the_identity():
  found = input_statistics.white(3)
  assert found.o_cov is None
  close(found[:5], (np.zeros(3), np.eye(3), np.zeros(3), np.eye(3), np.eye(3)))


def test_same_bits_every_time(model):
  one, two = (collect(model, batch(TOKENS)) for _ in range(2))
  for path in one:
    for a, b in zip(one[path], two[path], strict=True):
      np.testing.assert_array_equal(a, b)


def test_refuses(model):
  with pytest.raises(ValueError, match=r'^There are no calibration batches'):
    collect(model)
  with pytest.raises(ValueError, match=r'layer_0/self_attention.*not finite'):
    collect(model, batch(TOKENS, lengths=[0] * 6))
  params = dict(model[1]) | dict(
    embed=dict(embedding=np.full((small.V, small.D), np.nan, 'f'))
  )
  with pytest.raises(ValueError, match=r'layer_0/self_attention.*not finite'):
    collect((model[0], params), batch(TOKENS))
