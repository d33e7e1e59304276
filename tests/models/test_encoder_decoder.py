# SPDX-License-Identifier: Apache-2.0
"""Properties of the encoder-decoder, whatever attention is in its places."""

import dataclasses
import functools
import itertools

from flax import linen as nn
from flax.core import freeze
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import accounting, decoding
from collab.models import build, layers
from collab.models.transformer import Block, BlockConfig
from configs import wmt14
from tests.few import few
from tests.models import small
from tests.models.small import ATTENTION, D, V

# Encoder, decoder, cross: every variant somewhere, and mixed.
PLACES = [
  ('mha', 'mha', 'mha'),
  ('mhe_add', 'mhe_add', 'mhe_add'),
  ('mla', 'collab', 'mhe_mul'),
  ('gqa', 'skv', 'el'),
  ('el', 'mqa', 'sha'),
]
# What a layer sees and keeps is tested of every variant without a model.
some_places = pytest.mark.parametrize(
  'places',
  [
    pytest.param(places, marks=[] if i == 2 else pytest.mark.slow)
    for i, places in enumerate(PLACES)
  ],
)


def make(places=('mha', 'mha', 'mha'), **fields):
  encoder, decoder, cross = (ATTENTION[name] for name in places)
  default = dict(
    dim=D,
    encoder_layers=1,
    decoder_layers=1,
    mlp_dim=17,
    max_length=29,
    dropout=0.3,
  )
  return build(
    'encoder_decoder',
    vocab_size=V,
    attention=encoder,
    decoder_attention=decoder,
    cross_attention=cross,
    **default | fields,
  )


def some_pairs(*lengths, seed=0):
  """Pairs of random token ids of these (source, target) lengths."""
  rng = np.random.default_rng(seed)
  return [[rng.integers(3, V, n) for n in pair] for pair in lengths]


def pack(rows, S, T, fill=0):
  """Rows of pairs as a batch; `fill` is the token of padding."""
  batch = {}
  for side, key, L in ((0, 'source', S), (1, 'target_inputs', T)):
    tokens = np.full((len(rows), L), fill, np.int32)
    segments, positions = np.zeros((2, len(rows), L), np.int32)
    for row, pairs in enumerate(rows):
      at = 0
      for number, pair in enumerate(pairs, 1):
        n = len(pair[side])
        tokens[row, at : at + n] = pair[side]
        segments[row, at : at + n] = number
        positions[row, at : at + n] = np.arange(n)
        at += n
    name = key.removesuffix('_inputs')
    batch |= {key: tokens, f'{name}_segments': segments}
    batch[f'{name}_positions'] = positions
  return batch


@functools.cache
def parameters(model):
  return small.parameters(model, pack([some_pairs((3, 2))], 5, 4))


logits_of = small.apply


# Counts -----------------------------------------------------------------------


@pytest.mark.parametrize(
  'width, concatenate, collaborative',
  [
    (512, 60_915_712, 60_989_440),
    pytest.param(256, 56_187_904, 56_224_768, marks=pytest.mark.slow),
    pytest.param(128, 53_824_000, 53_842_432, marks=pytest.mark.slow),
    pytest.param(64, 52_642_048, 52_651_264, marks=pytest.mark.slow),
  ],
)
def test_published_parameter_counts(width, concatenate, collaborative):
  """The eight of arXiv 2006.16362: 6+6 layers, D=512, 32,768 tokens."""
  mha, collab = wmt14.get_config(), wmt14.get_config('collab')
  mha.model.attention.key_features = width % mha.model.dim  # 0 is all of it
  collab.model.attention.shared_dim = width
  batch = pack([some_pairs((3, 2))], 5, 4)
  for config, expected in ((mha, concatenate), (collab, collaborative)):
    model = build(**config.model.to_dict(), vocab_size=32_768)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert accounting.size(shapes['params']) == expected
    cost = accounting.attention_parameters(model)
    # The rest: one table, and in a layer norms (2 D each) and the MLP.
    mlp = 2 * 512 * 2048 + 2048 + 512
    rest = 32_768 * 512 + 12 * mlp + (6 * 2 + 6 * 3) * 2 * 512
    assert cost + rest == expected


# Norms and positions ----------------------------------------------------------


@few(
  itertools.product(['sinusoidal', 'learned', 'none'], ['pre', 'post']),
  [('sinusoidal', 'pre'), ('learned', 'post'), ('none', 'pre')],
  'positions, norm',
)
def test_norms_and_positions(norm, positions):
  model = make(norm=norm, positions=positions)
  base = accounting.size(parameters(make(positions='none')))
  extra = {'pre': 4 * D, 'post': 0}[norm]  # a last norm of each stack
  extra += 2 * 29 * D if positions == 'learned' else 0
  params = parameters(model)
  assert accounting.size(params) == base + extra
  # Two sources that differ in their order only: it matters unless 'none'.
  source, target = np.arange(5, 12), np.arange(3, 8)
  rows = [[(source, target)], [(source[::-1], target)]]
  logits = logits_of(model, params, pack(rows, 7, 5))
  assert np.isfinite(logits).all()
  distance = np.abs(logits[0] - logits[1]).max()
  assert (distance < 1e-4) == (positions == 'none')


@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_where_the_norm_is(norm):
  """With silent branches, pre-norm is the identity, post-norm normalises."""
  mha = ATTENTION['mha']
  block = Block(
    BlockConfig(attention=mha, cross_attention=mha, mlp_dim=5, norm=norm)
  )
  x, memory = jax.random.normal(jax.random.key(0), (2, 3, 7, D)) * 3 + 1
  params = jax.jit(block.init)(jax.random.key(1), x, memory)['params']
  silent = jax.tree.map(lambda x: x, params)
  for where in (silent['self_attention']['out'], silent['cross']['out']):
    where['kernel'] *= 0
  silent['mlp_out']['kernel'] *= 0
  apply = jax.jit(lambda params: block.apply({'params': params}, x, memory))
  out = apply(silent)
  if norm == 'pre':
    expected = x
  else:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / jnp.sqrt(var + 1e-6)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert np.abs(apply(params) - expected).max() > 0.1


def test_sinusoid():
  positions = np.array([[0, 1, 17]])
  got = layers.sinusoid(jnp.asarray(positions), 7)
  assert got.shape == (1, 3, 7)
  rates = 10000.0 ** -(np.arange(3) / 2)
  angles = positions[..., None] * rates[None, None]
  expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
  np.testing.assert_allclose(got[..., :6], expected, atol=1e-5)
  np.testing.assert_array_equal(got[..., 6], 0)


@pytest.mark.parametrize('width', [6, 7])
def test_exact_sinusoid(width):
  """arXiv 1706.03762's own rates, sines before cosines."""
  positions = np.array([[0, 1, 17]])
  got = layers.exact_sinusoid(jnp.asarray(positions), width)
  for i in range(width):
    k = i if i < (width + 1) // 2 else i - (width + 1) // 2
    angles = positions[0] / 10000 ** (2 * k / width)
    wave = np.sin(angles) if i == k else np.cos(angles)
    np.testing.assert_allclose(got[0, :, i], wave, atol=1e-5)


def test_output_bias_is_added_to_the_logits():
  batch = pack([some_pairs((5, 3), (2, 4))], 8, 9)
  params = parameters(make(output_bias=True))
  bias = params['embed']['bias']
  assert bias.shape == (V,)
  assert np.std(bias) > 0.1
  plain = params | dict(embed=dict(embedding=params['embed']['embedding']))
  want = logits_of(make(), plain, batch) + bias[None, None]
  small.close(logits_of(make(output_bias=True), params, batch), want, 1e-6)


def test_epsilon_is_that_of_all_norms():
  model, batch = make(epsilon=1e9), pack([some_pairs((5, 3))], 5, 3)
  params = parameters(model)
  bias = params['decoder']['layer_0']['mlp_norm']['bias']
  want = layers.Embed(V, D).apply(
    {'params': params['embed']}, bias[None, None], method='logits'
  )
  got = logits_of(model, params, batch)
  small.close(got, np.broadcast_to(want, got.shape), 1e-3)


def test_embedding_is_shared_and_scaled():
  embed = layers.Embed(5, 9)
  params = embed.init(jax.random.key(0), jnp.zeros((1, 1), int))
  table = params['params']['embedding']
  got = embed.apply(params, jnp.array([[3, 0]]))
  np.testing.assert_allclose(got[0], 3 * table[jnp.array([3, 0])], rtol=1e-6)
  logits = embed.apply(params, table[None], method='logits')
  np.testing.assert_allclose(logits[0], table @ table.T, atol=1e-5)


@pytest.mark.parametrize(
  'field, legal',
  [
    ('norm', 'post, pre'),
    ('positions', 'sinusoidal, sinusoidal_exact, learned, none'),
    ('activation', 'relu, gelu, gelu_tanh'),
  ],
)
def test_unknown_names(field, legal):
  batch = pack([some_pairs((3, 2))], 5, 4)
  with pytest.raises(ValueError, match=f"{field}='x' is none of {legal}"):
    jax.eval_shape(make(**{field: 'x'}).init, jax.random.key(0), batch)


def test_learned_positions_end():
  """Beyond the table there is nothing to add, so it is refused."""
  batch = pack([some_pairs((3, 2))], 30, 4)
  with pytest.raises(ValueError, match=r'30 tokens .*max_length=29'):
    jax.eval_shape(make(positions='learned').init, jax.random.key(0), batch)


# Scan and remat ---------------------------------------------------------------


LAYERS = dict(encoder_layers=2, decoder_layers=2)


@pytest.mark.slow
@pytest.mark.parametrize(
  'places, norm, options',
  [
    (PLACES[2], 'post', [dict(scan=True, remat='full')]),
    (PLACES[0], 'pre', [dict(scan=True), dict(remat='full')]),
  ],
)
def test_scan_and_remat_change_nothing(places, norm, options):
  batch = pack([some_pairs((5, 3), (2, 4)), some_pairs((6, 7))], 8, 9)
  loop = make(places, norm=norm, **LAYERS)
  params = parameters(loop)

  def value_and_grad(model):
    loss = lambda params: (model.apply({'params': params}, batch) ** 2).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  names = {'layer_0', 'layer_1'} | ({'norm'} if norm == 'pre' else set())
  value, grads = value_and_grad(loop)
  assert np.isfinite(value)
  for other in options:
    model = make(places, norm=norm, **LAYERS, **other)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
    assert set(shapes['encoder']) == set(shapes['decoder']) == names
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    other, other_grads = value_and_grad(model)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for a, b in zip(
      jax.tree.leaves(other_grads), jax.tree.leaves(grads), strict=True
    ):
      np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


# Packing and padding ----------------------------------------------------------


@some_places
def test_packed_is_alone(places):
  """Pairs in one row say what each says alone; padding says nothing."""
  model = make(places)
  params = parameters(model)
  pairs = some_pairs((5, 3), (1, 4), (4, 1))
  rows = [pairs, *([pair] for pair in pairs)]
  logits = logits_of(model, params, pack(rows, 13, 11))
  others = logits_of(model, params, pack(rows, 13, 11, fill=9))
  at = 0
  for alone, other, (_, target) in zip(
    logits[1:], others[1:], pairs, strict=True
  ):
    n = len(target)
    np.testing.assert_allclose(logits[0, at : at + n], alone[:n], atol=1e-4)
    np.testing.assert_allclose(other[:n], alone[:n], atol=1e-5)
    at += n


def test_row_length_does_not_matter():
  model = make()
  params = parameters(model)
  rows = [some_pairs((5, 3), (1, 4))]
  short = logits_of(model, params, pack(rows, 6, 7))
  long = logits_of(model, params, pack(rows, 19, 17))
  np.testing.assert_allclose(long[:, :7], short, atol=1e-4)


# Causality --------------------------------------------------------------------


def gradients(model, batch):
  """How logits [T] of row 0 depend on embeddings: |d| [T, T], [T, S]."""
  params = parameters(model)
  S, T = batch['source'].shape[1], batch['target_inputs'].shape[1]
  assert S != T

  def logits(source, target):
    def perturb(f, args, kwargs, context):
      x = f(*args, **kwargs)
      embeds = isinstance(context.module, layers.Embed)
      if embeds and context.method_name == '__call__':
        x += source if x.shape[1] == S else target
      return x

    with nn.intercept_methods(perturb):
      return (model.apply({'params': params}, batch)[0] ** 2).sum(-1)

  zeros = [jnp.zeros((1, n, D)) for n in (S, T)]
  to_source, to_target = jax.jit(jax.jacrev(logits, argnums=(0, 1)))(*zeros)
  return [np.abs(x[:, 0]).max(-1) for x in (to_target, to_source)]


@some_places
def test_what_a_prediction_depends_on(places):
  """Its segment's target up to itself, and its segment's source: all of it."""
  batch = pack([some_pairs((3, 4), (4, 3))], 9, 8)
  to_target, to_source = gradients(make(places), batch)
  mine = batch['target_segments'][0]
  real = mine > 0
  same = mine[:, None] == mine[None]
  seen = np.tril(same) & real[:, None]
  np.testing.assert_array_equal(to_target[real] > 0, seen[real])
  same = mine[:, None] == batch['source_segments']
  np.testing.assert_array_equal(to_source[real] > 0, same[real])


# Decoding ---------------------------------------------------------------------


def step_by_step(model, params, batch, chunks):
  """Logits of targets fed `chunks` tokens at a time."""
  variables, decoder = {'params': params}, model.clone(decode=True)
  source, segments = batch['source'], batch['source_segments']
  targets = batch['target_inputs']
  memory = model.apply(variables, source, segments, method='encode')
  cache = decoding.empty_cache(model, *targets.shape, memory)
  _, cache = decoder.apply(
    variables | {'cache': cache},
    memory,
    (segments > 0).sum(1),
    method='prefill_memory',
    mutable=['cache'],
  )
  logits, at = [], 0
  for n in chunks:
    new, cache = decoder.apply(
      variables | cache,
      targets[:, at : at + n],
      method='next_logits',
      mutable=['cache'],
    )
    logits.append(new)
    at += n
  return jnp.concatenate(logits, 1)


@some_places
@pytest.mark.parametrize('norm, positions', [('post', 'sinusoidal')])
def test_decoding_is_the_full_pass(places, norm, positions):
  model = make(places, norm=norm, positions=positions)
  params = parameters(model)
  rows = [[pair] for pair in some_pairs((5, 5), (2, 5), (7, 5))]
  batch = pack(rows, 7, 5)
  full = logits_of(model, params, batch)
  run = jax.jit(step_by_step, static_argnums=(0, 3))
  got = run(model, params, batch, (2, 1, 1, 1))
  np.testing.assert_allclose(got, full, atol=1e-4)


def test_decoding_with_learned_positions_and_pre_norm():
  test_decoding_is_the_full_pass(PLACES[0], 'pre', 'learned')


def test_rotated_heads_get_the_positions_of_pairs():
  """Packed, and decoded with a memory, they are what they are alone."""
  own = dict(name='tests.attention.test_positions:Rotary', num_heads=2)
  places = dict.fromkeys(('attention', 'cross_attention'), own)
  model = make(positions='none')
  model = model.clone(
    block=dataclasses.replace(model.block, **places),
    decoder_attention=freeze(own),
  )
  pairs = some_pairs((5, 5), (2, 5), (7, 5))
  with jax.numpy_rank_promotion('allow'):
    params = parameters(model)
    full = logits_of(model, params, pack([[pair] for pair in pairs], 7, 5))
    packed = logits_of(model, params, pack([pairs], 14, 15))
    decoded = jax.jit(step_by_step, static_argnums=(0, 3))(
      model, params, pack([[pair] for pair in pairs], 7, 5), (2, 1, 1, 1)
    )
  np.testing.assert_allclose(packed.reshape(full.shape), full, atol=1e-4)
  np.testing.assert_allclose(decoded, full, atol=1e-4)


# Dropout ----------------------------------------------------------------------


def test_dropout_needs_a_key():
  """Without a key every kind is off, and no flag is needed."""
  kinds = ('dropout', 'attention_dropout', 'activation_dropout')
  off = make(**dict.fromkeys(kinds, 0.0))
  params = parameters(off)
  batch = pack([some_pairs((5, 3), (2, 4))], 8, 9)
  expected = logits_of(off, params, batch)
  key = jax.random.key(3)
  np.testing.assert_array_equal(logits_of(off, params, batch, key), expected)
  for kind in kinds:
    on = make(**dict.fromkeys(kinds, 0.0) | {kind: 0.5})
    np.testing.assert_array_equal(logits_of(on, params, batch), expected)
    dropped = logits_of(on, params, batch, key)
    assert np.abs(dropped - expected).max() > 0.01
    np.testing.assert_array_equal(logits_of(on, params, batch, key), dropped)
    other = logits_of(on, params, batch, jax.random.key(4))
    assert np.abs(dropped - other).max() > 0.01


def test_dropout_in_a_scan():
  """Each layer its own pattern, the same ones with and without remat."""
  model = make(scan=True, **LAYERS)
  params = parameters(model)
  batch, key = pack([some_pairs((5, 3))], 8, 9), jax.random.key(3)
  got = logits_of(model, params, batch, key)
  again = logits_of(make(remat='full', **LAYERS), params, batch, key)
  np.testing.assert_allclose(got, again, atol=1e-4)
  assert np.abs(got - logits_of(model, params, batch)).max() > 0.01


def test_tables_and_widths_of_their_own():
  """The same as one table and one width where they hold the same numbers."""
  batch = pack([some_pairs((5, 3), (2, 4))], 8, 9)
  one, apart = make(), make(source_vocab_size=V + 1, tied=False)
  params = small.parameters(one, batch)
  table = params['embed']['embedding']
  more = dict(
    source_embed=dict(embedding=jnp.concatenate([table, table[:1]])),
    output=params['embed'],
  )
  want = small.apply(one, params, batch)
  small.close(small.apply(apart, params | more, batch), want, 1e-5)
  larger = dict(embedding=table * D**0.5)
  unscaled = make(scaled=False, tied=False)
  embeds = dict(embed=larger, output=params['embed'])
  small.close(small.apply(unscaled, params | embeds, batch), want, 1e-5)
  tree = small.shapes(make(decoder_mlp_dim=5), batch)
  assert tree['encoder']['layer_0']['mlp_in']['kernel'].shape == (D, 17)
  assert tree['decoder']['layer_0']['mlp_in']['kernel'].shape == (D, 5)
