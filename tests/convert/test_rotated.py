# SPDX-License-Identifier: Apache-2.0
"""Attention with rotary positions as mla: exact, of its size, and decodable."""

import functools
import itertools

import jax
import numpy as np
import pytest

from collab import attention, models
from collab.convert import __main__ as command
from collab.convert import reparametrize, source
from collab.convert.calibration import Calibration
from collab.convert.decompose import rotary_cache, rotary_methods, rotated
from collab.convert.decompose.input_statistics import Attended, Moments
from collab.convert.decompose.mha import read
from collab.convert.decompose.rotation import REST, Lags, of_pairs
from tests.convert import checkpoints
from tests.few import few

D, H, G, K, T = 17, 6, 3, 8, 11
N = 2 * G * K
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=8)
every_method = pytest.mark.parametrize('method', rotary_methods.METHODS)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def old(name='gqa', **rope):
  heads = dict(kv_heads=G) if name == 'gqa' else {}
  how = dict(num_heads=H, qkv_features=H * K, rope=dict(base=50.0) | rope)
  return attention.build(name, **how, **heads)


@functools.cache
def layer(name='gqa'):
  """Parameters of a layer, its Mha, and moments of inputs with a mean."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(old(name).init, jax.random.key(0), inputs())
  tree = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes['params'])
  tree['key']['bias'] *= 0
  x = rng.normal(size=(50, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D)
  mean, cov = x.mean(0), np.cov(x.T, bias=True)
  root, lags = rng.normal(size=(D, D)), of_pairs(T) * rng.uniform(size=T)
  attended = Attended(
    effects=rng.uniform(size=H) + 1,
    lags=lags / lags.sum(),
    mean=rng.normal(size=(H, D)),
    cov=root @ root.T,
  )
  moments = Moments(mean, cov, mean, cov, cov, attended=attended)
  return tree, read(tree, grouped=True), moments


def inputs():
  return np.random.default_rng(1).normal(size=(2, T, D)) / 4


def converted(method, size, name='gqa', rope=(), **fields):
  """The new layer of a method, and its parameters."""
  _, mha, moments = layer(name)
  before = old(name, **dict(rope))
  how = dict(cache_size=size, method=method) | fields
  tree, own = rotated.mla(mha, moments, before.rope, **how)
  more = dict(num_heads=H, qkv_features=H * K, rope=before.rope)
  return attention.build('mla', **more, **own), tree


@functools.partial(jax.jit, static_argnums=0)
def run(module, tree, x, positions=None):
  how = dict(mask=attention.Mask(causal=True), positions=positions)
  return module.apply({'params': tree}, x, **how)


def problem():
  _, mha, moments = layer()
  return rotary_cache.layer_of(mha, moments, old().rope)


def turned(at, rates):
  c, s = np.diag(np.cos(at * rates)), np.diag(np.sin(at * rates))
  return np.block([[c, -s], [s, c]])


# The algebra ------------------------------------------------------------------


def test_moments_are_means_over_lags():
  """Of planes in any order, and of one at rest."""
  rng = np.random.default_rng(0)
  rates, x = rng.normal(size=3), rng.normal(size=(6, 4))
  lags, left, right = Lags(of_pairs(7), rates), [2, 0, 2], [REST, 1]
  a, b = rates[left], np.array([0, rates[1]])
  for sign in (1, -1):
    want = sum(
      (7 - n) / 28 * turned(-sign * n, a) @ x @ turned(-sign * n, b).T
      for n in range(7)
    )
    got = lags.moments(x, left, right, sign)
    np.testing.assert_allclose(got, want, atol=1e-13)
  mean = sum((7 - n) / 28 * np.exp(-1j * n * a) for n in range(7))
  np.testing.assert_allclose(lags.mean(left), mean, atol=1e-13)


@every_method
def test_error_is_that_of_all_pairs(method):
  """By a loop over lags, of keys that rotate before or after they are read."""
  known, whole, rates = problem(), np.eye(N), old().rope.rates(K)[0]
  share = layer()[2].attended.lags
  rests = method in rotary_methods.RESTS
  given = rotary_cache.at_rest(known) if rests else known
  cache = next(rotary_methods.METHODS[method](given, 12, 0 if rests else 6))
  want, (n, r) = 0.0, (12, cache.latent)
  for g in range(G):
    for lag in range(T):
      R, moves = turned(-lag, rates), np.eye(n)
      if rests:
        left = R @ (whole[known.key(g)] - cache.keys[g] @ cache.kept.T)
      else:
        moves[r:, r:] = turned(-lag, rates[list(cache.planes)])
        left = R @ whole[known.key(g)] - cache.keys[g] @ moves @ cache.kept.T
      lost = np.sum(known.queries[g] * (left @ known.inputs @ left.T))
      want += lost * share[lag]
    left = whole[known.value(g)] - cache.values[g] @ cache.kept[:, :r].T
    want += np.sum(known.outputs[g] * (left @ known.mixed @ left.T))
  np.testing.assert_allclose(rotary_cache.error(given, cache), want, rtol=1e-9)


@pytest.mark.parametrize('method', rotary_methods.FITTED)
def test_fitting_never_adds_to_the_error(method):
  rests = method in rotary_methods.RESTS
  known = rotary_cache.at_rest(problem()) if rests else problem()
  cache = next(rotary_methods.METHODS[method](known, 12, 0 if rests else 4))
  errors = [rotary_cache.error(known, cache)]
  for _ in range(4):
    cache = rotary_cache.fitted(known, cache, 1)
    errors.append(rotary_cache.error(known, cache))
  assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))
  assert errors[-1] < 0.999 * errors[0]


def test_ours_loses_least_of_those_that_keep_rotated_keys():
  known = problem()
  size = lambda method: min(
    rotary_cache.error(known, x)
    for d_R in (6, 8, 12)
    for x in rotary_methods.METHODS[method](known, 24, d_R)
  )
  assert size('planes') < min(size('transmla'), size('mha2mla'))


# Layers -----------------------------------------------------------------------


@few(
  [
    (name, method)
    for name in ('gqa', 'mha')
    for method in rotary_methods.METHODS
  ],
  [('gqa', 'planes'), ('mha', 'transmla'), ('gqa', 'svd')],
  'name, method',
)
def test_exact_at_full_rank(name, method):
  tree, mha, _ = layer(name)
  heads, rope = mha.key.shape[1], dict(scaling=YARN)
  module, new = converted(method, 2 * heads * K, name, tuple(rope.items()))
  want = run(old(name, **rope), tree, inputs())
  got = run(module, new, inputs())
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@few(rotary_methods.METHODS, ['planes', 'svd'], 'method')
def test_cache_decodes_and_depends_on_distance(method):
  """A prompt and a step equal the full pass; a shift changes nothing."""
  module, tree = converted(method, 24)
  assert module.cache_size(D) == 24
  x, at = inputs(), np.arange(T)[None].repeat(2, 0)
  want = run(module, tree, x, at)
  np.testing.assert_allclose(run(module, tree, x, at + 900), want, rtol=1e-9)
  assert np.abs(run(module, tree, x, 2 * at) - want).max() > 1e-4
  module = module.clone(decode=True)
  apply = jax.jit(functools.partial(module.apply, mutable=['cache']))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  state = dict(
    cache=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes['cache'])
  )
  for part in slice(0, T - 1), slice(T - 1, T):
    got, state = apply(dict(params=tree) | state, x[:, part])
    np.testing.assert_allclose(got, want[:, part], rtol=1e-9)


def test_wrong_numbers_of_planes():
  for planes in ((0,), (0, 4), (-1, 0)):
    module = attention.build(
      'mla',
      num_heads=2,
      qkv_features=16,
      latent_dim=3,
      rope={},
      rope_dim=4,
      planes=planes,
    )
    with pytest.raises(ValueError, match='expected half of rope_dim=4 numbers'):
      module.init(jax.random.key(0), inputs())


# Models -----------------------------------------------------------------------


def unbiased(tensors):
  return {k: x * (not k.endswith('k_proj.bias')) for k, x in tensors.items()}


@pytest.fixture
def folder(tmp_path):
  """Llama with 4 heads and 2 of keys, of width 4, without biases of keys."""
  return checkpoints.variant(tmp_path / 'llama', 'llama_ForCausalLM', unbiased)


@pytest.fixture
def llama(folder):
  """The model, its parameters and a batch."""
  found, rng = source.read(folder), np.random.default_rng(0)
  batch = dict(tokens=rng.integers(0, 37, (3, 13)).astype(np.int32))
  return found.model, found.params, batch


@pytest.mark.parametrize('budget', [0.5, 8])
def test_budget_is_the_cache(llama, budget):
  model, params, batch = llama
  seen = Calibration(models.build(**model), [batch])
  new = reparametrize.convert(
    model, params, dict(name='mla'), seen, ('cache', budget)
  )
  (row,) = new.rows
  assert (row['cache_before'], row['cache']) == (16, 8)
  assert row['latent_dim'] + row['rope_dim'] == 8
  built = models.build(**new.model)
  assert np.isfinite(built.apply({'params': new.params}, batch)).all()


def test_groups_are_averaged(llama):
  model, params, _ = llama
  new = reparametrize.convert(model, params, dict(name='mqa'))
  assert new.model['attention']['rope'] == model['attention']['rope']
  key = lambda x: x['decoder']['layer_0']['self_attention']['key']['kernel']
  np.testing.assert_allclose(
    key(new.params)[:, 0], key(params).mean(1), rtol=1e-5
  )


def test_command_writes_what_loads_again(folder, tmp_path):
  words = '--attention=mla', '--budget=cache=0.5', '--method=mha2mla'
  command.main([str(folder), str(tmp_path / 'out'), *words])
  found = source.read(tmp_path / 'out')
  ((_, _),) = found.model['attention']['planes']  # one for each key head
  tokens = dict(tokens=np.zeros((1, 5), np.int32))
  models.build(**found.model).apply({'params': found.params}, tokens)


@pytest.mark.parametrize(
  'fields, budget, message',
  [
    (dict(name='collab', shared_dim=3), None, 'rotary positions can be conv'),
    (dict(name='mla'), None, 'attention=mla needs cache_size'),
    (dict(name='mla', cache_size=17), None, 'cache_size=17; expected 4 to 16'),
    (dict(name='mla'), ('parameters', 0.5), 'expected cache=N of mla'),
    (dict(name='mla', method='x'), ('cache', 0.5), "'x'; there are planes"),
    (
      dict(name='mla', cache_size=8, rope_dim=6, method='mha2mla'),
      None,
      r'can rotate none of rope_dim=\[6\], of 2 key heads with 2 planes',
    ),
    (
      dict(name='mla', rope_dim=7),
      ('cache', 0.5),
      'rope_dim=7; expected an ev',
    ),
    (dict(name='mla'), ('cache', 1.5), 'cache=1.5; expected a whole number'),
  ],
)
def test_refuses(llama, fields, budget, message):
  model, params, _ = llama
  with pytest.raises(ValueError, match=message):
    reparametrize.convert(model, params, fields, budget=budget)


def test_refuses_biases_of_keys():
  found = checkpoints.load('llama_ForCausalLM')
  with pytest.raises(ValueError, match='key/bias, which the softmax does not'):
    reparametrize.convert(found.model, found.params, dict(name='mqa'))


@every_method
def test_what_is_kept_is_as_long_as_its_readers(method):
  """So that a step of Adam changes both alike."""
  _, tree = converted(method, 18)
  kept, up = tree['latent']['kernel'], [tree['key_up'], tree['value_up']]
  r = kept.shape[1]
  each = [x['kernel'][:, :: H // G].reshape(r, -1) for x in up]  # of groups
  want = np.sqrt(sum(np.sum(x**2, 1) for x in each))
  np.testing.assert_allclose(np.linalg.norm(kept, axis=0), want, rtol=1e-6)
