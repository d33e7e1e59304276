# SPDX-License-Identifier: Apache-2.0
"""Properties of the encoder and its heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import accounting, models
from tests.few import few
from tests.models import small
from tests.models.small import ATTENTION, D, V

B, L, E, P = 3, 11, 5, 7
LENGTHS = np.array([11, 7, 1], np.int32)


def make(name='mha', **fields):
  default = dict(
    dim=D, num_layers=1, mlp_dim=17, max_length=13, attention_dropout=0.0
  )
  default |= dict(vocab_size=V, attention=ATTENTION[name])
  return models.build('encoder', **default | fields)


def texts(*shape, lengths=LENGTHS, seed=0):
  rng = np.random.default_rng(seed)
  shape = (*shape, L)
  return dict(
    tokens=rng.integers(5, V, shape).astype(np.int32),
    types=rng.integers(0, 2, shape).astype(np.int32),
    lengths=lengths,
    positions=rng.integers(0, L, (*shape[:-1], P)),
  )


@functools.cache
def parameters(model):
  axes = (B, 2) if model.head == 'choice' else (B,)
  lengths = np.full(axes, L, np.int32)
  return small.parameters(model, texts(*axes, lengths=lengths))


def run(model, batch, key=None, method=None):
  return small.apply(model, parameters(model), batch, key, method=method)


# Counts -----------------------------------------------------------------------

BERT = dict(vocab_size=28_996)
DISTIL = dict(vocab_size=30_522, num_layers=6, types=0, pooler=False)
ALBERT = dict(vocab_size=30_000, embed_dim=128, shared=True)


@pytest.mark.parametrize(
  'fields, width, expected',
  [
    (BERT, 0, 108_310_272),
    pytest.param(BERT, 768, 108_513_024, marks=pytest.mark.slow),
    (BERT, 384, 101_379_840),
    pytest.param(BERT, 256, 99_002_112, marks=pytest.mark.slow),
    pytest.param(BERT, 128, 96_624_384, marks=pytest.mark.slow),
    (DISTIL, 0, 66_362_880),
    (DISTIL, 384, 62_897_664),
    (ALBERT, 0, 11_683_584),
    (ALBERT, 512, 11_304_192),
    (ALBERT, 384, 11_106_048),
  ],
)
def test_published_parameter_counts(fields, width, expected):
  """BERT, DistilBERT, ALBERT; with MHA, or collaborative of this width."""
  attention = dict(name='mha', num_heads=12)
  if width:
    attention |= dict(name='collab', shared_dim=width, bias='content')
  model = models.build('encoder', attention=attention, **fields)
  tree = small.shapes(model, texts(1, lengths=np.ones(1, np.int32)))
  assert accounting.size(tree) == expected
  of_attention = sum(
    accounting.size(layer['self_attention'])
    for layer in tree['encoder'].values()
  )
  assert accounting.attention_parameters(model) == of_attention


# Embeddings and pooler --------------------------------------------------------


def normalise(x, p):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var) * p['scale'] + p['bias']


@pytest.mark.parametrize('types', [0, 2])
@pytest.mark.parametrize('width', [0, E])
def test_embeddings_and_pooler(types, width):
  """Without layers: LN(E[t] + P + E_types[s]), its projection, and tanh."""
  model = make(types=types, embed_dim=width).clone(num_layers=0)
  batch, p = texts(B), jax.tree.map(np.asarray, parameters(model))
  assert p['embed']['embedding'].shape == (V, width or D)
  assert ('types' in p, 'embed_project' in p) == (types > 0, width > 0)
  want = p['embed']['embedding'][batch['tokens']]
  want = want + p['positions']['embedding'][None, :L]
  if types:
    want = want + p['types']['embedding'][batch['types']]
  want = normalise(want, p['embed_norm'])
  dense = lambda name, x: x @ p[name]['kernel'] + p[name]['bias']
  if width:
    want = dense('embed_project', want)
  x, pooled = run(model, batch)
  small.close(x, want)
  small.close(pooled, np.tanh(dense('pooler', want[:, 0])))


def test_first_position_is_a_row_of_the_table():
  """RoBERTa's first token stands at row 2; there are two places less."""
  model = make(first_position=2).clone(num_layers=0)
  batch, params = texts(B), parameters(model)
  rows = np.roll(params['positions']['embedding'], -2, axis=0)
  from_0 = params | dict(positions=dict(embedding=rows))
  x, _ = run(model, batch)
  small.close(
    x, small.apply(make().clone(num_layers=0), from_0, batch)[0], 1e-6
  )
  words = 'no learned positions beyond max_length=12, of which 2 are not used'
  with pytest.raises(ValueError, match=words):
    small.shapes(make(first_position=2, max_length=12), batch)


def test_norm_of_embeddings_with_pre_norm():
  model = make(norm='pre', pooler=False)
  assert {'embed_norm', 'encoder'} < parameters(model).keys()
  assert 'norm' in parameters(model)['encoder']
  x, pooled = run(model, texts(B))
  assert np.isfinite(x).all()
  assert pooled is None


def test_order_matters_by_positions_alone():
  batch = texts(B, lengths=np.full(B, L, np.int32))
  order = np.random.default_rng(1).permutation(L)
  turned = batch | {key: batch[key][:, order] for key in ('tokens', 'types')}
  for kind in ('none', 'learned'):
    model = make(positions=kind)
    x, there = run(model, batch)[0], run(model, turned)[0]
    distance = np.abs(x[:, order] - there).max()
    assert (distance < 1e-4) == (kind == 'none')


@few(['mha', 'collab', 'mhe_add'], ['mhe_add'], 'name')
def test_padding_is_not_seen(name):
  """Whatever it holds, and however much of it there is."""
  model = make(name)
  batch, other = texts(B), texts(B, seed=1)
  real = np.arange(L)[None] < LENGTHS[:, None]
  filled = batch | {
    key: np.where(real, batch[key], other[key]) for key in ('tokens', 'types')
  }
  x, filled = run(model, batch)[0], run(model, filled)[0]
  assert np.isfinite(x).all()
  small.close(filled[real], x[real], 1e-5)
  row = {key: batch[key][1:2, :7] for key in ('tokens', 'types')}
  alone = run(model, row | dict(lengths=LENGTHS[1:2]))[0]
  small.close(alone[0], x[1, :7])


# Heads ------------------------------------------------------------------------

HEADS = {
  'none': {},
  'mlm': {},
  'classify': dict(outputs=2),
  'choice': {},
  'span': {},
  'tag': dict(outputs=3),
}


def test_only_the_head_depends_on_the_task():
  """And whether a pooler reads the first token: not where all have outputs."""
  trees = {}
  for head, fields in HEADS.items():
    trees[head] = parameters(make(head=head, embed_dim=E, **fields))
  assert 'head' not in trees['none']
  want = jax.tree.map(jnp.shape, trees['none'])
  for head, tree in trees.items():
    assert ('head' in tree, 'pooler' in tree) == (
      head != 'none',
      head not in ('mlm', 'span', 'tag'),
    )
    body = {key: tree[key] for key in tree if key != 'head'}
    body.setdefault('pooler', trees['none']['pooler'])
    assert jax.tree.map(jnp.shape, body) == want


@few([0, E], [E], 'width')
def test_masked_tokens(width):
  """features at the positions, the tied table and a bias make the logits."""
  model, batch = make(head='mlm', embed_dim=width), texts(B)
  params = parameters(model)
  features = run(model, batch, method='features')
  assert features.shape == (B, P, width or D)
  bias = params['head']['bias']
  assert bias.shape == (V,)
  want = features @ params['embed']['embedding'].T + bias[None, None]
  small.close(run(model, batch), want)
  everywhere = np.broadcast_to(np.arange(L), (B, L))
  whole = run(model, batch | dict(positions=everywhere), method='features')
  there = np.take_along_axis(whole, batch['positions'][:, :, None], 1)
  small.close(features, there, 1e-5)


@pytest.mark.parametrize('head, outputs', [('span', 2), ('tag', 3)])
def test_outputs_of_each_token(head, outputs):
  model = make(head=head, **HEADS[head])
  params = parameters(model)
  x, _ = run(make(), texts(B))
  body = parameters(make())
  got = small.apply(model, body | dict(head=params['head']), texts(B))
  want = x @ params['head']['kernel'] + params['head']['bias'][None, None]
  assert got.shape == (B, L, outputs)
  small.close(got, want)


@pytest.mark.parametrize('pooler', [True, False])
def test_a_choice_is_a_class_of_each(pooler):
  """With the pooler, or DistilBERT's dense layer in the head."""
  C = 2
  batch = texts(B, C, lengths=np.array([[11, 3], [1, 7], [5, 2]], np.int32))
  choice = make(head='choice', pooler=pooler)
  classify = make(head='classify', outputs=1, pooler=pooler)
  params = parameters(choice)
  assert len(params['head']) == (1 if pooler else 2)
  got = small.apply(choice, params, batch)
  assert got.shape == (B, C)
  for c in range(C):
    one = {key: x[:, c] for key, x in batch.items()}
    small.close(got[:, c], small.apply(classify, params, one)[:, 0])


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      dict(head='x'),
      "head='x' is none of none, mlm, classify, choice, span, tag",
    ),
    (dict(head='classify'), 'needs outputs, at least 1; got 0'),
    (dict(head='tag'), "'tag' needs outputs, at least 1; got 0"),
    (dict(num_layers=2, order=(0,)), r'order=\(0,\); expected 2 numbers'),
    (dict(num_layers=2, order=(1, 2)), r'order=\(1, 2\); expected 2 numbers'),
    (dict(dtype='float64'), "dtype='float64' needs JAX_ENABLE_X64"),
    (dict(max_length=7), '11 tokens .*max_length=7'),
  ],
)
def test_impossible_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    small.shapes(make(**fields), texts(B))


def test_unknown_model():
  with pytest.raises(ValueError, match=r'encoder, decoder, .*vit'):
    models.build('bert')


# Layers and dropout -----------------------------------------------------------


def test_shared_layers_compute_with_their_scan():
  """ALBERT's form, all of it: the same as a loop and as a scan."""
  fields = dict(num_layers=3, shared=True, embed_dim=E)
  loop, scan = make(**fields), make(scan=True, remat='full', **fields)
  params = parameters(loop)
  assert set(params['encoder']) == {'layer_0'}
  assert loop.attentions()[0].layers == 1
  x, y = (
    small.apply(loop, params, texts(B)),
    small.apply(scan, params, texts(B)),
  )
  jax.tree.map(small.close, x, y)
  once, _ = small.apply(make(embed_dim=E), params, texts(B))
  assert np.abs(once - x[0]).max() > 0.01


def test_layers_in_another_order():
  """One runs twice: as a model that has a copy of it."""
  model = make(num_layers=3, order=(0, 1, 0))
  params = parameters(model)
  assert set(params['encoder']) == {'layer_0', 'layer_1'}
  (place,) = model.attentions()
  assert (place.layers, place.runs) == (2, (2, 1))
  copied = params['encoder'] | dict(layer_2=params['encoder']['layer_0'])
  want = small.apply(
    make(num_layers=3), params | dict(encoder=copied), texts(B)
  )
  jax.tree.map(small.close, small.apply(model, params, texts(B)), want)


def test_dropout_needs_a_key():
  model = make(head='classify', outputs=2, dropout=0.3)
  off = make(head='classify', outputs=2, dropout=0.0)
  params, batch, key = parameters(model), texts(B), jax.random.key(3)
  want = small.apply(off, params, batch, key)
  small.close(small.apply(model, params, batch), want, 1e-6)
  dropped = small.apply(model, params, batch, key)
  assert np.abs(dropped - want).max() > 0.01
  np.testing.assert_array_equal(small.apply(model, params, batch, key), dropped)


def test_bfloat16():
  """Parameters stay float32; the computation is dtype's."""
  model = make('collab', head='mlm', embed_dim=E, dtype=jnp.bfloat16)
  params = parameters(model)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  got = run(model, texts(B))
  assert got.dtype == jnp.bfloat16
  want = small.apply(make('collab', head='mlm', embed_dim=E), params, texts(B))
  small.close(got.astype('float32'), want, 0.3)
