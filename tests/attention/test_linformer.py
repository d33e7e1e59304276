# SPDX-License-Identifier: Apache-2.0
"""Linformer against its formula, and what it refuses."""

from flax import linen as nn
import jax
import numpy as np
import pytest

from collab import attention, models
from tests.attention import reference
from tests.attention.variants import close

B, H, S, T, d, D, D_MEMORY, P = 2, 3, 7, 11, 13, 19, 31, 5


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


X, Y = normal(1, B, T, D), normal(2, B, S, D_MEMORY)
KEY = jax.random.key(0)


def build(**fields):
  base = dict(num_heads=H, qkv_features=H * d, length=T, projected_length=P)
  base |= dict(bias_init=nn.initializers.normal(0.5))
  return attention.build('linformer', **base | fields)


def init(layer, *inputs):
  tree = layer.init(KEY, *inputs)['params']
  rng = np.random.default_rng(4)
  return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), tree)


def expected(p, x, y, valid=None):
  """Head by head, as in the paper: E K_h and F V_h, with E, F [p, n]."""
  p, S, heads = jax.tree.map(np.asarray, p), y.shape[1], []
  valid = np.ones((B, S)) if valid is None else valid
  for h in range(H):
    q, k, v = (
      u @ p[n]['kernel'][:, h] + p[n]['bias'][h]
      for n, u in (('query', x), ('key', y), ('value', y))
    )
    E, F = (p[f'{n}_length'][:S].T for n in ('key', 'value'))
    k, v = (
      np.stack([m @ (u * s[:, None]) for u, s in zip(w, valid, strict=True)])
      for m, w in ((E, k), (F, v))
    )
    heads.append((q, k, v))
  q, k, v = (np.stack(u, 2) for u in zip(*heads, strict=True))
  o = reference.heads_softmax(q, k, v, scale=d**-0.5)
  return np.einsum('bthv,hvd->btd', o, p['out']['kernel']) + p['out']['bias']


def exact(got, want):
  close(got, want, rel=1e-12)


def test_equals_the_formula():
  p = init(build(), X)
  exact(build().apply({'params': p}, X), expected(p, X, X))


def test_a_shorter_memory_has_the_first_rows():
  p = init(build(), X, Y)
  exact(build().apply({'params': p}, X, Y), expected(p, X, Y))


def test_gradient():
  p, w = init(build(), X), normal(3, B, T, D)
  loss = lambda p: (build().apply({'params': p}, X) * w).sum()
  grads = jax.grad(loss)(p)
  u = jax.tree.map(lambda x: normal(5, *x.shape), p)
  leaves = [jax.tree.leaves(tree) for tree in (grads, u)]
  got = sum((a * b).sum() for a, b in zip(*leaves, strict=True))
  p = jax.tree.map(np.asarray, p)
  want = reference.directional(lambda p: (expected(p, X, X) * w).sum(), p, u)
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_with_identities_it_is_mha():
  mha = attention.build('mha', num_heads=H, qkv_features=H * d)
  p, eye = init(mha, X), np.eye(T)
  same = p | dict(key_length=eye, value_length=eye)
  got = build(projected_length=T).apply({'params': same}, X)
  exact(got, mha.apply({'params': p}, X))


def test_padding_changes_nothing():
  p, n = init(build(), X), 8
  valid = np.arange(T)[None] < np.array([[n], [0]])
  mask = attention.Mask(key_valid=valid)
  run = lambda x: build().apply({'params': p}, x, mask=mask)
  exact(run(X), expected(p, X, X, valid))
  other = np.where(valid[..., None], X, 100 * X[:, ::-1])
  exact(run(other)[0, :n], run(X)[0, :n])
  exact(run(X)[0, :n], expected(p, X[:, :n], X[:, :n])[0])
  # A row without keys has zero heads.
  exact(run(X)[1], np.broadcast_to(p['out']['bias'], (T, D)))


@pytest.mark.parametrize(
  'mask, part',
  [
    (attention.Mask(causal=True), 'causal'),
    (attention.Mask(q_segments=np.ones((B, T), int)), 'q_segments'),
    (np.ones((B, 1, 1, T), bool), 'dense'),
  ],
)
def test_masks_that_it_refuses(mask, part):
  with pytest.raises(ValueError, match=f'may only have key_valid, got {part}'):
    build().init(KEY, X, mask=mask)


@pytest.mark.parametrize(
  'fields, words',
  [
    (dict(decode=True), 'so it does not decode'),
    (dict(window=3), 'and has no window'),
    (dict(length=10), 'length=10 is too short for 11 keys'),
    (dict(length=0), 'length=0 and projected_length=5 must be at least 1'),
    (dict(projected_length=0), 'projected_length=0 must be at least 1'),
    (dict(rope={}), 'Linformer has no rope'),
    (dict(qk_norm=True), 'Linformer has no qk_norm'),
  ],
)
def test_what_it_refuses(fields, words):
  with pytest.raises(ValueError, match=words):
    build(**fields).init(KEY, X)


@pytest.mark.parametrize('use_bias', [True, False])
def test_count(use_bias):
  biases = use_bias * (3 * H * d + D)
  layer = build(use_bias=use_bias)
  assert layer.count(D) == 4 * D * H * d + 2 * T * P + biases
  assert layer.cache_size(D) == 0


FIELDS = dict(name='linformer', num_heads=2, length=T, projected_length=P)


@pytest.mark.parametrize(
  'name, place',
  [
    ('decoder', 'attention'),
    ('encoder_decoder', 'attention'),
    ('encoder_decoder', 'decoder_attention'),
    ('encoder_decoder', 'cross_attention'),
  ],
)
def test_models_that_decode_or_pack_refuse_it(name, place):
  fields = dict(attention=dict(name='mha', num_heads=2)) | {place: FIELDS}
  with pytest.raises(ValueError, match=f'model.{place}: linformer is for'):
    models.build(name, vocab_size=7, dim=8, **fields)
