# SPDX-License-Identifier: Apache-2.0
"""The family q_h = (x Wq) A_h against one key, and its near relations.

Where two variants are the same function they are compared in float64, and the
costs of those that newer papers propose are compared with closed forms.
"""

from flax import linen as nn
import jax
import numpy as np
import pytest

from collab import attention
from tests.attention.variants import close

B, T, H, d, D = 2, 11, 3, 14, 19
CAUSAL = attention.Mask(causal=True)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


X = normal(1, B, T, D)


def build(name, **fields):
  base = dict(num_heads=H, qkv_features=H * d)
  base |= dict(bias_init=nn.initializers.normal(0.5))
  return attention.build(name, **base | fields)


def init(layer):
  """Parameters that differ enough from their initial values to show."""
  tree = jax.jit(lambda key: layer.init(key, X))(jax.random.key(0))['params']
  rng = np.random.default_rng(4)
  return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), tree)


def run(layer, params, mask=CAUSAL):
  return jax.jit(lambda p: layer.apply({'params': p}, X, mask=mask))(params)


def weights(layer, params):
  sown = dict(sow_weights=True, mutable='intermediates', mask=CAUSAL)
  _, state = layer.apply({'params': params}, X, **sown)
  return state['intermediates']['attention_weights'][0]


def exact(got, want):
  close(got, want, rel=1e-12)


# One family -------------------------------------------------------------------


def with_matrices(query, matrices):
  """query_down and query of MFA for x Wq + bq and matrices A_h [H, K, C]."""
  return dict(
    query_down=dict(kernel=query['kernel']),
    query=dict(
      kernel=np.moveaxis(matrices, 0, 1),
      bias=np.einsum('k,hkc->hc', query['bias'], matrices),
    ),
  )


def head(dense):
  """A shared key or value of width C as the one head of MFA."""
  return dict(kernel=dense['kernel'][:, None], bias=dense['bias'][None])


def diagonal(rows):
  return np.stack([np.diag(row) for row in np.asarray(rows)])


@pytest.mark.parametrize('offset', [1.0, 0.3])
@pytest.mark.parametrize('rope', [None, {}])
def test_mfa_with_diagonal_matrices_is_mhe_mul(offset, rope):
  """The whole layer: ev is part of the output projection."""
  mul = build('mhe_mul', offset=offset, rope=rope, fold=rope is not None)
  p = init(mul)
  eq, ek, ev = (offset + p[f'{n}_embedding'] for n in ('query', 'key', 'value'))
  out = p['out'] | dict(kernel=p['out']['kernel'] * ev[..., None])
  params = with_matrices(p['query'], diagonal(eq * ek))
  params |= dict(key=head(p['key']), value=head(p['value']), out=out)
  exact(run(build('mfa', query_dim=d, rope=rope), params), run(mul, p))


@pytest.mark.parametrize('rope', [None, {}])
def test_mfa_with_diagonal_matrices_has_the_scores_of_collab(rope):
  k = 22  # in which there are no 3 heads, each with a spectrum
  collab = build('collab', shared_dim=k, bias='shared', rope=rope)
  p = init(collab)
  # MFA divides by sqrt(k), collab by sqrt(d).
  matrices = diagonal(p['mixing']) * (k / d) ** 0.5
  how = dict(head_width=k, qkv_features=None, rope=rope)
  mfa = build('mfa', query_dim=k, **how)
  params = init(mfa) | with_matrices(p['query'], matrices)
  params['key'] = head(p['key'])
  exact(weights(mfa, params), weights(collab, p))


def test_mfa_with_diagonal_blocks_has_the_scores_of_mha():
  mha, C = build('mha'), H * d
  p = init(mha)
  flat = {
    n: dict(kernel=p[n]['kernel'].reshape(D, C), bias=p[n]['bias'].reshape(C))
    for n in ('query', 'key')
  }
  matrices = diagonal(np.repeat(np.eye(H), d, 1)) * H**0.5
  mfa = build('mfa', query_dim=C, head_width=C, qkv_features=None)
  params = init(mfa) | with_matrices(flat['query'], matrices)
  params['key'] = head(flat['key'])
  exact(weights(mfa, params), weights(mha, p))


@pytest.mark.parametrize('gate', [0.0, 1.7])
def test_mfa_kr_is_mfa_whose_value_is_a_map_of_its_key(gate):
  kr, mfa = (build(n, query_dim=5) for n in ('mfa_kr', 'mfa'))
  p = init(kr)
  p['value_gate'] = gate * p['value_gate']
  matrix = np.eye(d) + p['value']['kernel'] * p['value_gate'][None]
  value = {n: x @ matrix for n, x in p['key'].items()}
  value['kernel'] = value['kernel'].reshape(D, 1, d)
  rest = {n: p[n] for n in ('query_down', 'query', 'key', 'out')}
  exact(run(kr, p), run(mfa, rest | dict(value=value)))


# Groups -----------------------------------------------------------------------


@pytest.mark.parametrize('latent_dim', [5, 17])  # absorbed or not
@pytest.mark.parametrize('rope', [{}, dict(rope={}, rope_dim=4)])
def test_gla_with_one_group_is_mla(latent_dim, rope):
  fields = dict(latent_dim=latent_dim, qk_norm=True, **rope)
  mla = build('mla', **fields)
  p = init(mla)
  kernel = p['latent']['kernel'][:, None]
  one = p | dict(latent=dict(kernel=kernel))
  exact(run(build('gla', kv_heads=1, **fields), one), run(mla, p))


def test_gla_is_mla_whose_up_projections_are_blocks():
  """A head of group g reads only c_g, which is what a device may keep."""
  fields = dict(num_heads=4, qkv_features=4 * d, rope={}, rope_dim=4)
  gla = build('gla', latent_dim=10, kv_heads=2, **fields)
  p = init(gla)
  wide = dict(p)
  for name in ('key_up', 'value_up'):
    kernel = np.zeros((10, 4, d))
    kernel[:5, :2], kernel[5:, 2:] = np.split(p[name]['kernel'], 2, 1)
    wide[name] = dict(kernel=kernel)
  wide['latent'] = dict(kernel=p['latent']['kernel'].reshape(D, 10))
  exact(run(gla, p), run(build('mla', latent_dim=10, **fields), wide))


def test_skv_with_as_many_groups_as_heads_is_skv():
  p = init(build('skv'))
  got = run(build('skv', kv_heads=H), p)
  np.testing.assert_array_equal(got, run(build('skv'), p))


def test_skv_with_groups_is_gqa_with_values_equal_to_keys():
  fields = dict(num_heads=6, qkv_features=6 * d, kv_heads=2)
  skv, gqa = build('skv', **fields), build('gqa', **fields)
  p = init(skv)
  exact(run(skv, p), run(gqa, p | dict(value=p['key'])))


def test_gta_is_gqa_with_tied_keys():
  """Its keys as one projection: half a value, and half that all share."""
  fields = dict(num_heads=6, qkv_features=6 * d, kv_heads=2)
  gta, gqa = build('gta', **fields), build('gqa', **fields)
  p = init(gta)
  key = {
    n: np.concatenate(
      [x[..., : d // 2], np.repeat(p['rope_key'][n], 2, -2)], -1
    )
    for n, x in p['key_value'].items()
  }
  rest = {n: p[n] for n in ('query', 'out')}
  exact(run(gta, p), run(gqa, rest | dict(key=key, value=p['key_value'])))


def test_a_token_of_tpa_has_keys_of_rank_r():
  tpa = build('tpa', num_heads=7, qkv_features=7 * d, rank=3)
  p, keys = init(tpa), []

  def spy(method, args, kwargs, context):
    out = method(*args, **kwargs)
    if context.method_name == 'read':
      keys.append(out.k)
    return out

  with nn.intercept_methods(spy):
    tpa.apply({'params': p}, X, mask=CAUSAL)
  values = np.linalg.svd(np.asarray(keys[0]), compute_uv=False)
  assert keys[0].shape == (B, T, 7, d)
  assert values[..., 3:].max() < 1e-12 < 1e-2 < values[..., 2].min()


# Costs ------------------------------------------------------------------------

ROPE = dict(rope={}, rope_dim=32)


@pytest.mark.parametrize(
  'name, fields, parameters, scalars',
  [
    ('mha', {}, 2_359_296, 1536),
    ('mla', dict(latent_dim=256, **ROPE), 2_088_960, 288),
    ('gla', dict(latent_dim=256, kv_heads=2, **ROPE), 1_892_352, 288),
    ('gta', dict(kv_heads=4, rope={}), 1_400_832, 288),
    ('mfa', dict(query_dim=256, head_width=128, rope={}), 1_966_080, 256),
    ('mfa_kr', dict(query_dim=256, head_width=128, rope={}), 1_884_288, 128),
    ('tpa', dict(rank=2, rope={}), 1_413_120, 304),
    ('skv', dict(kv_heads=4, rope={}), 1_376_256, 256),
    ('gqa', dict(kv_heads=4, gate='head'), 2 * 768 * 1024 + 9216, 512),
    ('mha', dict(gate='elementwise'), 5 * 768**2, 1536),
    ('linformer', dict(length=512, projected_length=64), 2_424_832, 0),
  ],
)
def test_costs_of_a_layer_of_width_768(name, fields, parameters, scalars):
  layer = attention.build(name, num_heads=12, use_bias=False, **fields)
  assert layer.count(768) == parameters
  assert layer.cache_size(768) == scalars


# The gate ---------------------------------------------------------------------


@pytest.mark.parametrize('gate, width', [('head', 1), ('elementwise', d)])
def test_a_gate_halves_what_heads_read_and_then_closes(gate, width):
  layer = build('mha', gate=gate)
  p = init(layer)
  plain = run(build('mha'), {n: x for n, x in p.items() if n != 'gate'})
  bias = p['out']['bias'][None, None]
  assert p['gate']['kernel'].shape == (D, H, width)
  for at, factor in ((0.0, 0.5), (-1e3, 0.0), (1e3, 1.0)):
    gates = jax.tree.map(np.zeros_like, p['gate'])
    gates['bias'] = gates['bias'] + at
    got = run(layer, p | dict(gate=gates))
    exact(got, factor * (plain - bias) + bias)


def test_a_gate_has_one_of_three_names():
  with pytest.raises(ValueError, match=r"gate='both'.*'none', 'head', 'elem"):
    build('mha', gate='both')


@pytest.mark.parametrize(
  'name, fields, words',
  [
    ('gla', dict(latent_dim=6, kv_heads=2), 'kv_heads=2 does not divide num'),
    ('gla', dict(latent_dim=7, kv_heads=3), 'and latent_dim=7'),
    ('gla', dict(latent_dim=0, kv_heads=3), 'and latent_dim=0'),
    ('gla', dict(latent_dim=6, kv_heads=3, rope={}), 'rope_dim=0 with rope=R'),
    ('gta', dict(kv_heads=2), 'kv_heads=2 does not divide num_heads=3'),
    ('gta', dict(kv_heads=1, qkv_features=3), 'width 1 has no half'),
    ('skv', dict(kv_heads=2), 'kv_heads=2 does not divide num_heads=3'),
    ('mfa', dict(query_dim=0), 'query_dim=0 must be at least 1'),
    ('mfa_kr', dict(query_dim=1, head_width=-1), 'head_width=-1 at least 0'),
    ('mfa', dict(query_dim=5, head_width=9), 'is not qkv_features=42'),
    ('tpa', dict(rank=0), 'rank=0 must be at least 1'),
  ],
)
def test_fields_out_of_range(name, fields, words):
  with pytest.raises(ValueError, match=words):
    build(name, **fields).init(jax.random.key(0), X)
