# SPDX-License-Identifier: Apache-2.0
"""The layer stands where flax.linen.MultiHeadDotProductAttention stood."""

import dataclasses
import functools
import inspect

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import fields
from tests.attention import variants as V
from tests.attention.variants import close, normal
from tests.few import few

B, T, S, H, D = 2, 11, 7, 3, 33
UNSUPPORTED = {
  'attention_fn',
  'qkv_dot_general',
  'out_dot_general',
  'qkv_dot_general_cls',
  'out_dot_general_cls',
  'qk_attn_weights_einsum_cls',
  'attn_weights_value_einsum_cls',
}
LINEN = nn.MultiHeadDotProductAttention
OURS = functools.partial(attention.build, 'mha')
both = pytest.mark.parametrize('layer', [LINEN, OURS], ids=['linen', 'ours'])


@pytest.fixture(scope='module')
def x():
  return normal(np.random.default_rng(0), B, T, D)


@pytest.fixture(scope='module')
def y():
  return normal(np.random.default_rng(1), B, S, 19)


@functools.lru_cache
def variables(**fields):
  layer = LINEN(num_heads=H, bias_init=nn.initializers.normal(), **fields)
  return layer.init(jax.random.key(0), np.ones((B, T, D), 'float32'))


class Model(nn.Module):
  """Somebody's decoder, with the attention layer as an argument."""

  attention: type

  @nn.compact
  def __call__(self, tokens, memory, *, deterministic=True):
    x = nn.Embed(17, D)(tokens)
    causal = nn.make_causal_mask(tokens, dtype=bool)
    for i in range(2):
      y = nn.LayerNorm()(x)
      x = x + self.attention(num_heads=H, name=f'self_{i}')(
        y, mask=causal, deterministic=deterministic
      )
      x = x + self.attention(num_heads=H, qkv_features=15, name=f'cross_{i}')(
        nn.LayerNorm()(x), memory, deterministic=deterministic
      )
    return nn.Dense(17)(x)


def test_a_model_computes_the_same_with_the_same_parameters(y):
  tokens = np.random.default_rng(0).integers(0, 17, (B, T))
  mha = type(OURS(num_heads=H))
  params = Model(LINEN).init(jax.random.key(0), tokens, y)
  ours = Model(mha).init(jax.random.key(0), tokens, y)
  jax.tree.map(np.testing.assert_array_equal, ours, params)
  apply = lambda cls: jax.jit(Model(cls).apply)(params, tokens, y)
  close(apply(mha), apply(LINEN))


@pytest.mark.parametrize(
  'fields',
  [
    {},
    dict(use_bias=False),
    dict(qkv_features=15, out_features=5, param_dtype=jnp.bfloat16),
    dict(
      kernel_init=nn.initializers.normal(),
      bias_init=nn.initializers.ones,
      out_kernel_init=nn.initializers.xavier_uniform(),
      out_bias_init=nn.initializers.normal(),
    ),
  ],
)
def test_same_initial_values_under_the_same_key(x, fields):
  want = LINEN(num_heads=H, **fields).init(jax.random.key(3), x)
  got = OURS(num_heads=H, **fields).init(jax.random.key(3), x)
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert dtypes(got) == dtypes(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_fields_have_linens_names_order_and_defaults():
  """Those that are missing are refused by name, and listed."""
  theirs = {f.name: f for f in dataclasses.fields(LINEN)}
  ours = dataclasses.fields(attention.Attention)
  # The last fields are ours alone.
  alone = str.split('implementation rope qk_norm soft_cap gate window')
  alone += ['use_out_bias', 'value_dims']
  assert [f.name for f in ours if f.name in alone] == alone
  ours = [f for f in ours if f.name not in alone]
  assert [f.name for f in ours] == [
    n for n in theirs if n in {f.name for f in ours}
  ]
  for f in ours:
    if f.name not in ('kernel_init', 'bias_init', 'name', 'parent'):
      assert f.default == theirs[f.name].default, f.name
  missing = set(theirs) - {f.name for f in ours}
  assert missing == UNSUPPORTED
  for name in missing:
    value = {name: theirs[name].default}
    assert f'`{name}`' in fields.Fields.__doc__
    with pytest.raises(TypeError, match=f'mha has no field {name}'):
      OURS(num_heads=H, **value)
    with pytest.raises(TypeError, match=name):
      type(OURS(num_heads=H))(num_heads=H, **value)
  # Behind the first that is missing, nothing is taken by its place.
  first = next(i for i, n in enumerate(theirs) if n in missing)
  given = [f.default for f in list(theirs.values())[1 : first + 1]]
  with pytest.raises(TypeError, match='positional'):
    type(OURS(num_heads=H))(H, *given)


def test_call_arguments_are_linens():
  theirs = inspect.signature(LINEN.__call__).parameters
  ours = inspect.signature(attention.Attention.__call__).parameters
  place = lambda p: (p.name, p.kind, p.default)
  own = ('lengths', 'positions', 'key_positions')
  assert [place(p) for p in ours.values() if p.name not in own] == [
    place(p) for p in theirs.values() if p.name != 'inputs_kv'
  ]
  assert '`inputs_kv`' in attention.Attention.__doc__


def test_inputs_kv_is_refused_by_name(x):
  with pytest.raises(TypeError, match='inputs_kv'):
    OURS(num_heads=H).init(jax.random.key(0), x, inputs_kv=x)


@few([None, 'bfloat16'], [None], 'dtype')
def test_normalize_qk_is_linens(x, y, dtype):
  fields = dict(num_heads=H, normalize_qk=True, dtype=dtype)
  tree = LINEN(**fields).init(jax.random.key(0), x, y)
  ours = OURS(**fields)
  got = ours.init(jax.random.key(0), x, y)
  jax.tree.map(np.testing.assert_array_equal, got, tree)
  for name in ('query_ln', 'key_ln'):
    scale = tree['params'][name]['scale']
    tree['params'][name]['scale'] = scale * np.linspace(0.5, 2, scale.size)
  want = LINEN(**fields).apply(tree, x, y)
  o = ours.apply(tree, x, y)
  assert o.dtype == want.dtype
  close(o, want, rel=1e-5 if dtype is None else 3e-2)


def test_force_fp32_for_softmax_is_accepted_and_always_so(x):
  """In bfloat16 linen's own softmax is off without it."""
  tree = variables()
  with_it, without = (
    OURS(num_heads=H, dtype=jnp.bfloat16, force_fp32_for_softmax=force).apply(
      tree, x
    )
    for force in (True, False)
  )
  np.testing.assert_array_equal(with_it, without)
  want = LINEN(num_heads=H, dtype=jnp.bfloat16, force_fp32_for_softmax=True)
  close(with_it, want.apply(tree, x), rel=2e-2)


@pytest.mark.parametrize('name', attention.names())
def test_a_module_is_named_inside_compact(name):
  class Named(nn.Module):
    @nn.compact
    def __call__(self, x):
      fields = V.FIELDS.get(name, {})
      return attention.build(name, **fields | dict(num_heads=6, name='attn'))(x)

  x = np.ones((2, 3, 12), 'float32')
  tree = jax.eval_shape(Named().init, jax.random.key(0), x)
  assert set(tree['params']) == {'attn'}


@pytest.mark.parametrize(
  'dtypes',
  [('float32', 'bfloat16'), ('bfloat16', 'float32'), ('float16', 'float32')],
)
def test_queries_and_memory_of_two_dtypes_are_promoted_as_in_linen(
  x, y, dtypes
):
  q, k = (
    a.astype(dtype)
    for a, dtype in zip((x, y), map(jnp.dtype, dtypes), strict=True)
  )
  for param_dtype in ('bfloat16', 'float16'):
    fields = dict(num_heads=H, param_dtype=param_dtype)
    tree = LINEN(**fields).init(jax.random.key(0), q, k)
    want = LINEN(**fields).apply(tree, q, k)
    got = OURS(**fields).apply(tree, q, k)
    assert got.dtype == want.dtype
    close(got, want, rel=2e-2)


@pytest.mark.parametrize(
  'shape',
  [(T, T), (H, T, T), (1, T, T), (B, 1, T, T), (B, H, T, T), (B, 1, 1, T)],
)
def test_masks_that_linen_broadcasts(x, shape):
  mask = np.random.default_rng(0).random(shape) < 0.7
  mask[..., 0] = True  # linen returns the mean where nothing is seen
  apply = lambda layer: layer(num_heads=H).apply(variables(), x, mask=mask)
  with jax.numpy_rank_promotion('allow'):  # linen does broadcast ranks
    want = apply(LINEN)
  close(apply(OURS), want)


def test_a_row_without_keys_is_the_output_bias_and_not_the_mean(x):
  """The one deliberate departure from linen."""
  mask = np.ones((B, 1, T, T), bool)
  mask[1, :, 2] = False
  tree = variables()
  got = OURS(num_heads=H).apply(tree, x, mask=mask)
  want = LINEN(num_heads=H).apply(tree, x, mask=mask)
  np.testing.assert_array_equal(got[1, 2], tree['params']['out']['bias'])
  assert np.abs(want[1, 2] - got[1, 2]).max() > 0.01
  close(np.delete(got[1], 2, 0), np.delete(want[1], 2, 0))


def test_inputs_k_and_inputs_v(x, y):
  z = normal(np.random.default_rng(2), B, S, 23)
  for args in ((x, y), (x, y, z), (x, x, x), (x, x)):
    tree = LINEN(num_heads=H).init(jax.random.key(0), *args)
    want = LINEN(num_heads=H).apply(tree, *args)
    close(OURS(num_heads=H).apply(tree, *args), want)
  named = dict(inputs_q=x, inputs_k=x, inputs_v=x)
  close(OURS(num_heads=H).apply(tree, **named), want)


@few([(), (1,), (2, 3)], [(2, 3)], 'batch')
def test_any_number_of_batch_axes(batch):
  x = normal(np.random.default_rng(0), *batch, T, D)
  y = normal(np.random.default_rng(1), *batch, S, D)
  mask = np.random.default_rng(2).random((*batch, 1, T, S)) < 0.7
  mask[..., 0] = True
  if not batch:
    mask = mask[0]
  args = variables(), x, y
  want = LINEN(num_heads=H).apply(*args, mask=mask)
  close(OURS(num_heads=H).apply(*args, mask=mask), want)


def test_sown_weights(x):
  for batch in ((), (B,), (1, B)):
    inputs = x[0] if not batch else x.reshape(*batch, T, D)
    sown = [
      layer(num_heads=H, dropout_rate=0.5).apply(
        variables(),
        inputs,
        deterministic=False,
        sow_weights=True,
        rngs={'dropout': jax.random.key(0)},
        mutable=['intermediates'],
      )[1]
      for layer in (LINEN, OURS)
    ]
    want, got = (s['intermediates']['attention_weights'] for s in sown)
    assert type(got) is type(want) is tuple
    close(got[0], want[0])  # before dropout, as in linen
  o, empty = OURS(num_heads=H).apply(variables(), x, mutable=['intermediates'])
  assert not empty
  again, _ = OURS(num_heads=H).apply(
    variables(), x, sow_weights=True, mutable=['intermediates']
  )
  close(again, o)


def test_decoding_one_token_a_call(x):
  """A layer decodes with the parameters and the calls that linen's had."""
  tree = variables()
  layers = [layer(num_heads=H, decode=True) for layer in (LINEN, OURS)]
  caches = [layer.init(jax.random.key(0), x)['cache'] for layer in layers]
  steps = [
    jax.jit(functools.partial(layer.apply, mutable=['cache']))
    for layer in layers
  ]
  for t in range(T):
    o = []
    for i, step in enumerate(steps):
      out, new = step(tree | dict(cache=caches[i]), x[:, t : t + 1])
      caches[i] = new['cache']
      o.append(out)
    close(o[1], o[0])


@few([1, 2, 3], [3], 'given')
def test_decoding_with_queries_keys_and_values_cut_apart(given):
  """Every call has arrays of its own, as has init; nobody compares objects."""
  x, y, z = normal(np.random.default_rng(0), 3, B, 5, D)
  inputs = (x, y, z)[:given]
  layers = [layer(num_heads=H, decode=True) for layer in (LINEN, OURS)]
  trees = [layer.init(jax.random.key(0), *inputs) for layer in layers]
  for t in range(5):
    token = [a[:, t : t + 1] for a in inputs]
    o = []
    for i, layer in enumerate(layers):
      out, new = layer.apply(trees[i], *token, mutable=['cache'])
      trees[i] = trees[i] | new
      o.append(out)
    close(o[1], o[0])


# Dropout ----------------------------------------------------------------------


def dropped(layer, x, rngs=None, deterministic=False, field=None, **kwargs):
  fields = dict(num_heads=H, dropout_rate=0.5, deterministic=field)
  return layer(**fields).apply(
    variables(), x, deterministic=deterministic, rngs=rngs, **kwargs
  )


@both
def test_deterministic_from_field_or_call(layer, x):
  want = layer(num_heads=H).apply(variables(), x)
  rngs = {'dropout': jax.random.key(0)}
  close(dropped(layer, x, deterministic=True), want)
  close(dropped(layer, x, deterministic=None, field=True), want)
  assert np.abs(dropped(layer, x, rngs) - want).max() > 0.01
  on = dropped(layer, x, rngs, deterministic=None, field=False)
  np.testing.assert_array_equal(on, dropped(layer, x, rngs))
  with pytest.raises(ValueError, match='deterministic'):
    dropped(layer, x, rngs, deterministic=None)
  with pytest.raises(ValueError, match='deterministic'):
    dropped(layer, x, rngs, deterministic=True, field=True)


@both
def test_dropout_rng(layer, x):
  key = jax.random.key(1)
  one = dropped(layer, x, dropout_rng=key)
  rngs = {'dropout': jax.random.key(2)}
  np.testing.assert_array_equal(dropped(layer, x, rngs, dropout_rng=key), one)
  other = dropped(layer, x, dropout_rng=jax.random.key(2))
  assert np.abs(other - one).max() > 0.01
  with pytest.raises(flax.errors.InvalidRngError, match='dropout'):
    dropped(layer, x)


@both
@pytest.mark.parametrize('broadcast', [True, False])
def test_broadcast_dropout(layer, x, broadcast):
  """One pattern for all examples and heads, or one each."""
  same = np.broadcast_to(x[:1], (3, T, D))
  o = layer(num_heads=H, dropout_rate=0.5, broadcast_dropout=broadcast).apply(
    variables(),
    same,
    deterministic=False,
    dropout_rng=jax.random.key(0),
  )
  equal = np.abs(o[0] - o[1]).max() < 1e-6
  assert equal == broadcast


@few(V.NAMES, ['mhe_add'])
def test_dropout_of_every_variant(case):
  """Zero rate is no dropout; the mean over patterns is the plain output."""
  x, params = V.inputs(case)[0], V.params(case)
  apply = lambda rate, key, **fields: V.build(
    case, dropout_rate=rate, **fields
  ).apply({'params': params}, x, deterministic=False, dropout_rng=key)
  keys = jax.random.split(jax.random.key(0), 256)
  many = np.asarray(jax.jit(jax.vmap(lambda k: apply(0.3, k)))(keys))
  plain = V.expected(case, params, x)
  spread = many.std(0) / len(keys) ** 0.5
  assert spread.min() > 0
  assert (np.abs(many.mean(0) - plain) < 6 * spread).all()
  # One pattern for all: the general kernel gives what the chosen one gave.
  sown, _ = V.build(case, dropout_rate=0.3).apply(
    {'params': params},
    x,
    deterministic=False,
    dropout_rng=keys[0],
    sow_weights=True,
    mutable=['intermediates'],
  )
  close(sown, many[0])
