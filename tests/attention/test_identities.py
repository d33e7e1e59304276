# SPDX-License-Identifier: Apache-2.0
"""What the papers' algebra says must coincide (facts of both papers)."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import kernels
from collab.attention.core import Attention
from collab.attention.projections import Projections
from tests.attention import variants as V
from tests.attention.variants import B, D, H, T, close, d, normal
from tests.few import few

CAUSAL = attention.Mask(causal=True)


def run(layer, params, x, **kwargs):
  """The output under a causal mask."""
  f = lambda p, x: layer.apply({'params': p}, x, mask=CAUSAL, **kwargs)
  return jax.jit(f)(params, x)


@functools.lru_cache
def gradient(case):
  """Of a random function of the output, in the parameters."""
  layer, x = V.build(case), V.inputs(case)[0]
  w = normal(np.random.default_rng(2), *x.shape)
  loss = lambda p: (layer.apply({'params': p}, x, mask=CAUSAL) * w).sum()
  return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(V.params(case)))


@pytest.fixture
def x():
  return normal(np.random.default_rng(1), B, T, D)


# 1: what MHE-ADD's embeddings do ----------------------------------------------


def test_mhe_add_key_embedding_is_inert(x):
  params = V.params('mhe_add')
  assert (gradient('mhe_add')['key_embedding'] == 0).all()
  assert np.abs(gradient('mhe_add')['query_embedding']).max() > 1e-3
  # In the paper's formula, too, it changes nothing.
  other = params | dict(key_embedding=params['key_embedding'] + 10)
  close(V.expected('mhe_add', other, x), V.expected('mhe_add', params, x))


def test_mhe_add_value_embedding_is_a_constant_per_head(x):
  layer, params = V.build('mhe_add'), V.params('mhe_add')
  ev = params['value_embedding']
  without = run(layer, params | dict(value_embedding=0 * ev), x)
  constant = np.einsum('hk,hkd->d', ev, params['out']['kernel'])
  close(run(layer, params, x), without + constant[None, None])


def test_mhe_add_heads_differ_by_a_bias_per_key_only(x):
  """score_h[i, j] = (q_i . k_j + eq_h . k_j) / sqrt(d), seen in the weights."""
  layer, p = V.build('mhe_add'), V.params('mhe_add')
  _, state = layer.apply(
    {'params': p}, x, sow_weights=True, mutable='intermediates'
  )
  logs = np.log(state['intermediates']['attention_weights'][0])
  k = x @ p['key']['kernel'] + p['key']['bias'][None, None]
  bias = np.einsum('bsk,hk->bhs', k, p['query_embedding']) / d**0.5
  left = logs - bias[:, :, None]
  left -= left.mean(-1, keepdims=True)  # a row's normalisation
  close(left, np.broadcast_to(left[:, :1], left.shape))


# 2: one score matrix ----------------------------------------------------------


def heads_of(case, x):
  """What the variant hands to the core."""
  layer, params, got = V.build(case), V.params(case), []

  def spy(method, args, kwargs, context):
    out = method(*args, **kwargs)
    if context.method_name == 'heads':
      got.append(out)
    return out

  with nn.intercept_methods(spy):
    layer.apply({'params': params}, x)
  return got[0]


def test_mhe_add_needs_one_score_matrix(x):
  h = heads_of('mhe_add', x)
  args = h.q * d**-0.5, h.k, h.v, h.key_bias
  mask = CAUSAL
  shared, _ = jax.jit(kernels.shared_scores)(*args, mask)
  close(shared, jax.jit(kernels.grouped)(*args, mask)[0])
  text = str(jax.make_jaxpr(kernels.shared_scores)(*args, mask))
  one, per_head = f'f32[{B},1,{T},{T}] = exp', f'f32[{B},{H},{T},{T}] = exp'
  assert one in text  # the side that the bound allows
  assert per_head in text  # the other


# 3 and 4: products, and what decoding keeps -----------------------------------


def as_collab(p, offset=1.0):
  """Parameters of MHE-MUL as collaborative attention with k = d."""
  eq, ek, ev = (offset + p[f'{n}_embedding'] for n in ('query', 'key', 'value'))
  return dict(
    query=p['query'],
    key=p['key'],
    mixing=eq * ek,
    value=dict(
      kernel=p['value']['kernel'][:, None] * ev[None],
      bias=p['value']['bias'][None] * ev,
    ),
    out=p['out'],
  )


@pytest.mark.parametrize('offset', [1.0, 0.0])
def test_mhe_mul_is_collaborative_attention(x, offset):
  params = V.params('mhe_mul')
  mul = V.build('mhe_mul', offset=offset)
  collab = V.build('collab', shared_dim=d, bias='shared')
  close(run(collab, as_collab(params, offset), x), run(mul, params, x))


@pytest.mark.parametrize(
  'case, scalars',
  [
    ('mha', 2 * H * d),
    ('mhe_mul', 2 * d),
    ('mhe_add', 2 * d + H),
    ('sha', 2 * d),
    ('mqa', 2 * d),
    ('gqa', 2 * 3 * d),
    ('skv', H * d),
    ('el', H * d),
    ('collab', 23 + H * d + H),
    ('collab_none', 5 + H * d),
    ('mla', 5),
    ('mha_narrow', 51 + H * d),
  ],
)
def test_cache_scalars_a_token(case, scalars):
  assert V.build(case).cache_size(V.width(case)) == scalars


@pytest.mark.parametrize(
  'name, fields, parameters, scalars',
  [
    ('mha', {}, 4 * 768**2, 1536),
    ('gqa', dict(kv_heads=4), 2 * 768**2 + 2 * 768 * 4 * 64, 512),
    ('mqa', {}, 2 * 768**2 + 2 * 768 * 64, 128),
    ('skv', {}, 3 * 768**2, 768),
    ('el', {}, 2 * 768**2, 768),
    (
      'collab',
      dict(shared_dim=384, bias='none'),
      2 * 768**2 + 2 * 768 * 384 + 12 * 384,
      1152,
    ),
    ('sha', {}, 768**2 + 3 * 768 * 64, 128),
    ('mhe_mul', {}, 768**2 + 3 * 768 * 64 + 3 * 768, 128),
    ('mhe_add', {}, 768**2 + 3 * 768 * 64 + 3 * 768, 140),
    ('mla', dict(latent_dim=96), 2 * 768**2 + 3 * 768 * 96, 96),
  ],
)
def test_bert_base_layer_costs(name, fields, parameters, scalars):
  layer = attention.build(name, num_heads=12, use_bias=False, **fields)
  assert layer.count(768) == parameters
  assert layer.cache_size(768) == scalars


@pytest.mark.parametrize(
  'name, millions',
  [
    ('mha', 28.31),
    ('skv', 21.23),
    ('mqa', 15.34),
    ('el', 14.16),
    ('mhe_mul', 8.88),
    ('mhe_add', 8.88),
    ('sha', 8.85),
  ],
)
def test_twelve_layers_have_the_mhe_papers_parameters(name, millions):
  layer = attention.build(name, num_heads=12, use_bias=False)
  assert round(12 * layer.count(768) / 1e6, 2) == millions


def test_content_bias_costs_a_column_per_head():
  """D H parameters without biases of queries and keys, and H in the cache."""
  build = functools.partial(
    attention.build, 'collab', num_heads=12, shared_dim=384
  )
  content, none = build(bias='content'), build(bias='none')
  assert content.count(768) - none.count(768) == 768 * 12
  assert content.cache_size(768) == 1164
  assert none.cache_size(768) == 1152


# 5: limits that are the same layer --------------------------------------------


def test_gqa_with_as_many_groups_as_heads_is_mha(x):
  params = V.params('mha')
  gqa = V.build('gqa', num_heads=H, qkv_features=H * d, kv_heads=H)
  close(run(gqa, params, x), run(V.build('mha'), params, x))


def test_mqa_is_gqa_with_one_group(x):
  gqa = V.build('gqa', num_heads=H, qkv_features=H * d, kv_heads=1)
  params = V.params('mqa')
  np.testing.assert_array_equal(
    run(V.build('mqa'), params, x), run(gqa, params, x)
  )
  assert type(V.build('mqa')) is type(gqa)


@pytest.mark.parametrize('bias', ['shared', 'content'])
def test_collab_with_block_mixing_is_mha(x, bias):
  """k = D, with the biases either as they are or as the content bias."""
  p = V.params('mha')
  k = H * d
  wide = lambda q: dict(kernel=q['kernel'].reshape(D, k))
  params = dict(
    query=wide(p['query']), key=wide(p['key']), value=p['value'], out=p['out']
  )
  layer = V.build('collab', shared_dim=k, bias=bias, mixing_init='concatenate')
  params['mixing'] = layer.init(jax.random.key(0), x)['params']['mixing']
  if bias == 'shared':
    for n in ('query', 'key'):
      params[n]['bias'] = p[n]['bias'].reshape(k)
  else:  # c_h = Wk_h bq_h
    c = np.einsum('dhk,hk->dh', p['key']['kernel'], p['query']['bias'])
    params['content_bias'] = dict(kernel=c)
  close(run(layer, params, x), run(V.build('mha'), p, x))


def test_block_mixing_splits_like_array_split():
  init = attention.build(
    'collab', num_heads=3, shared_dim=7, mixing_init='concatenate'
  ).init
  run = jax.jit(lambda key: init(key, jnp.zeros((1, 2, 6))))
  mixing = run(jax.random.key(0))['params']['mixing']
  want = [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]]
  assert mixing.tolist() == want


def test_narrow_mha_is_collab_with_block_mixing(x):
  """The "concatenate" baseline, at the same scale."""
  p, k = V.params('mha_narrow'), 51
  params = dict(
    query=dict(
      kernel=p['query']['kernel'].reshape(D, k),
      bias=p['query']['bias'].reshape(k),
    ),
    key=dict(
      kernel=p['key']['kernel'].reshape(D, k), bias=p['key']['bias'].reshape(k)
    ),
    mixing=np.repeat(np.eye(H, dtype='float32'), 17, 1),
    value=p['value'],
    out=p['out'],
  )
  mha = V.build('mha', key_features=k)  # scale: 1 / sqrt(d) by default
  collab = V.build('collab', shared_dim=k, bias='shared')
  close(run(collab, params, x), run(mha, p, x))


def test_sha_is_mhe_mul_with_zero_embeddings(x):
  params = V.params('sha')
  zero = np.zeros((H, d), 'float32')
  embeddings = {f'{n}_embedding': zero for n in ('query', 'key', 'value')}
  sha = run(V.build('sha'), params, x)
  for name in ('mhe_mul', 'mhe_add'):
    close(run(V.build(name), params | embeddings, x), sha)


@pytest.mark.parametrize('name', ['mhe_add', 'mhe_mul'])
@pytest.mark.parametrize('std', [0.02, 0.5])
def test_std_of_head_embeddings(name, std):
  layer = attention.build(
    name, num_heads=64, qkv_features=64 * 32, embedding_std=std
  )
  p = layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))['params']
  for part in ('query', 'key', 'value'):
    got = np.std(p[f'{part}_embedding'])
    np.testing.assert_allclose(got, std, rtol=0.1)  # of 2,048 numbers


def test_sha_repeats_one_head(x):
  """Only the sum of the output kernels over heads matters."""
  layer, params = V.build('sha'), V.params('sha')
  kernel = params['out']['kernel']
  mean = np.broadcast_to(kernel.mean(0, keepdims=True), kernel.shape)
  other = params | dict(out=params['out'] | dict(kernel=mean))
  close(run(layer, other, x), run(layer, params, x))


def test_skv_is_mha_with_values_equal_to_keys(x):
  p = V.params('skv')
  mha = run(V.build('mha'), p | dict(value=p['key']), x)
  close(run(V.build('skv'), p, x), mha)


def test_el_is_skv_with_the_identity_as_projection():
  x, p = V.inputs('el')[0], V.params('el')
  eye = np.eye(H * d, dtype='float32').reshape(H * d, H, d)
  key = dict(kernel=eye, bias=np.zeros((H, d), 'float32'))
  close(run(V.build('el'), p, x), run(V.build('skv'), p | dict(key=key), x))


@pytest.mark.parametrize('case', ['mla', 'mla_wide'])
def test_mla_is_mha_of_low_rank_and_absorbing_changes_nothing(x, case):
  p = V.params(case)
  up = lambda name: dict(
    kernel=np.einsum('dr,rhk->dhk', p['latent']['kernel'], p[name]['kernel']),
    bias=np.zeros((H, d), 'float32'),
  )
  mha = dict(
    query=p['query'], key=up('key_up'), value=up('value_up'), out=p['out']
  )
  layer = V.build(case)
  want = run(V.build('mha'), mha, x)
  close(run(layer, p, x), want)
  assert (heads_of(case, x).v is None) == (
    case == 'mla'
  )  # absorbed where that is cheaper


# 6: what does not change collaborative attention ------------------------------


def test_mixing_the_queries_is_mixing_the_keys(x):
  h = heads_of('collab_none', x)
  p = V.params('collab_none')
  q = (x @ p['query']['kernel'])[:, :, None]
  k = h.k * p['mixing'][None, None]
  scale = d**-0.5
  want, _ = kernels.grouped(h.q * scale, h.k, h.v)
  close(kernels.grouped(q * scale, k, h.v)[0], want)


def test_permuting_or_rescaling_the_shared_columns_changes_nothing(x):
  layer, p = V.build('collab_shared'), V.params('collab_shared')
  rng = np.random.default_rng(0)
  a, b = rng.uniform(0.5, 2, (2, 23)).astype('float32')
  order = rng.permutation(23)
  column = lambda q, s: jax.tree.map(lambda w: (w * s)[..., order], q)
  with jax.numpy_rank_promotion('allow'):
    other = p | dict(
      query=column(p['query'], a),
      mixing=column(p['mixing'], 1 / (a * b)),
      key=column(p['key'], b),
    )
  close(run(layer, other, x), run(layer, p, x))


# Biases that the softmax does not see -----------------------------------------


@few(
  ['mha', 'gqa', 'mqa', 'collab_shared', 'sha', 'mhe_mul', 'mhe_add'],
  ['gqa', 'mhe_add'],
)
def test_key_bias_is_dead_where_keys_are_only_keys(case):
  grads = gradient(case)
  bias, kernel = grads['key']['bias'], grads['key']['kernel']
  assert np.abs(bias).max() < 1e-6 * np.linalg.norm(kernel)


def test_key_bias_lives_where_keys_are_values():
  grads = gradient('skv')
  assert np.abs(grads['key']['bias']).max() > 0.1


@pytest.mark.parametrize('case', V.CASES)
def test_no_variant_touches_the_core(case):
  """A variant says how inputs become heads; the rest exists once."""
  layers = [vars(Attention), vars(Projections)]
  core = {n for layer in layers for n, x in layer.items() if callable(x)}
  core = {n for n in core if n == '__call__' or not n.startswith('__')}
  hooks = {'heads', 'read', 'finish', 'separate_values'}
  flax = {'parent', 'name', 'scope'}
  own = set(vars(type(V.build(case))))
  assert 'heads' in own
  assert {'__call__', 'project', 'count', '_attend'} <= core
  assert not own & (core - hooks - flax)
