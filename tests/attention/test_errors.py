# SPDX-License-Identifier: Apache-2.0
"""What goes wrong says what it got and what is legal."""

import copy
import functools
import pickle

import jax
import numpy as np
import pytest

from collab import attention
from collab.attention.variants import variant
from tests.attention import variants as V

KEY = jax.random.key(0)
X = np.ones((2, 11, 12), 'float32')
Y = np.ones((2, 7, 12), 'float32')
VARIANTS = sorted(set(attention.names()) - {'mqa'})


def init(name, *args, num_heads=3, apply=None, **fields):
  layer = attention.build(name, num_heads=num_heads, **fields)
  f = lambda *args: layer.init_with_output(KEY, *args, **apply or {})
  return jax.eval_shape(f, *(args or (X,)))


def fails(error, *words):
  """Raises `error`, its message with each of the words."""
  pattern = ''.join(f'(?=.*{word})' for word in words)
  return pytest.raises(error, match=f'(?s){pattern}')


def test_wrong_name_lists_the_right_ones():
  with fails(ValueError, "'mhe'", *attention.names()):
    attention.build('mhe', num_heads=3)
  with fails(ValueError, "'mhe'", *attention.names()):
    variant('mhe')
  assert variant('mqa') is variant('gqa')


@pytest.mark.parametrize('name', attention.names())
def test_unknown_field_lists_the_fields(name):
  fields = V.FIELDS.get(name, {}) | dict(num_heads=6)
  with fails(TypeError, f'^{name} has no field colour', 'num_heads', *fields):
    attention.build(name, colour=1, **fields)


@pytest.mark.parametrize(
  'name, field',
  [('gqa', 'kv_heads'), ('collab', 'shared_dim'), ('mla', 'latent_dim')],
)
def test_missing_field_is_named(name, field):
  with fails(TypeError, f'^{name} needs {field}'):
    attention.build(name, num_heads=3)
  with fails(TypeError, f'^{name} needs num_heads, {field}'):
    attention.build(name)


@pytest.mark.parametrize(
  'name, field, value, expected',
  [
    ('mha', 'num_heads', '4', 'int'),
    ('mha', 'num_heads', 4.0, 'int'),
    ('mha', 'num_heads', True, 'int'),
    ('mha', 'num_heads', None, 'int'),
    ('mha', 'qkv_features', 12.0, r'int \| None'),
    ('mha', 'dropout_rate', '0.1', 'float'),
    ('mha', 'dropout_rate', False, 'float'),
    ('mha', 'use_bias', 1, 'bool'),
    ('mha', 'deterministic', 'yes', r'bool \| None'),
    ('gqa', 'kv_heads', '3', 'int'),
    ('mhe_mul', 'offset', '1', 'float'),
    ('collab', 'bias', 3, 'str'),
    ('mha', 'soft_cap', '30', r'float \| None'),
    ('mha', 'qk_norm', 1, 'bool'),
  ],
)
def test_a_value_of_another_type(name, field, value, expected):
  fields = V.FIELDS.get(name, {}) | dict(num_heads=6) | {field: value}
  for build in (variant(name), functools.partial(attention.build, name)):
    with fails(TypeError, f'^{field}={value!r}; expected {expected}.$'):
      build(**fields)


@pytest.mark.parametrize('rate', [2, -1, 1, float('nan'), np.float32(1.5)])
def test_a_dropout_rate_that_is_no_probability_below_1(rate):
  for build in (variant('mha'), functools.partial(attention.build, 'mha')):
    with fails(ValueError, '^dropout_rate=', 'at least 0, below 1'):
      build(num_heads=3, dropout_rate=rate)
  with fails(ValueError, '^dropout_rate='):
    attention.build('mha', num_heads=3).clone(dropout_rate=rate)


@pytest.mark.parametrize(
  'name, field, value',
  [
    ('mha', 'qkv_features', -12),
    ('mha', 'key_features', -12),
    ('mha', 'out_features', -1),
    ('mha', 'scale', float('nan')),
    ('mhe_mul', 'offset', float('inf')),
  ],
)
def test_a_number_that_means_nothing(name, field, value):
  with fails(ValueError, f'^{field}={value}; expected'):
    attention.build(name, num_heads=3, **{field: value})


def test_numbers_of_numpy_are_numbers():
  layer = attention.build(
    'mha',
    num_heads=np.int64(3),
    qkv_features=np.int32(6),
    dropout_rate=np.float32(0.5),
    use_bias=np.False_,
    deterministic=np.True_,
  )
  assert layer.count(12) == 4 * 12 * 6


@pytest.mark.parametrize('name', attention.names())
def test_copies_of_a_layer(name):
  """As of other linen modules: jax's own initialisers cannot be pickled."""
  zeros = jax.nn.initializers.zeros
  fields = V.FIELDS.get(name, {}) | dict(num_heads=6)
  layer = attention.build(name, **fields)
  assert copy.deepcopy(layer) == layer
  layer = layer.clone(kernel_init=zeros)
  again = pickle.loads(pickle.dumps(layer))
  assert again == layer
  assert again.count(12) == layer.count(12)


@pytest.mark.parametrize('name', attention.names())
@pytest.mark.parametrize('num_heads', [5, 0, -1])
def test_heads_that_do_not_divide_the_width(name, num_heads):
  fields = dict.fromkeys(V.FIELDS.get(name, {}), 1)
  fields['num_heads'] = num_heads
  with fails(ValueError, f'num_heads={num_heads}', 'divide', '12'):
    init(name, **fields)
  with fails(ValueError, f'num_heads={num_heads}', 'divide', '12'):
    attention.build(name, **fields).count(12)
  if num_heads == 5:
    with fails(ValueError, 'num_heads=5', 'divide qkv_features=18'):
      init(name, qkv_features=18, **fields)


@pytest.mark.parametrize('kv_heads', [2, 0, 6])
def test_kv_heads_that_do_not_divide_the_heads(kv_heads):
  with fails(ValueError, f'kv_heads={kv_heads}', 'divide num_heads=3'):
    init('gqa', kv_heads=kv_heads)


def test_values_a_variant_cannot_take():
  with fails(ValueError, 'num_heads=3', 'divide key_features=8'):
    init('mha', key_features=8)
  with fails(ValueError, "bias='key'", 'content', 'shared', 'none'):
    init('collab', shared_dim=5, bias='key')
  with fails(
    ValueError, "mixing_init='cat'", 'concatenate', 'normal', 'xavier'
  ):
    init('collab', shared_dim=5, mixing_init='cat')
  with fails(ValueError, 'shared_dim=0', 'at least 1'):
    init('collab', shared_dim=0)
  with fails(ValueError, 'latent_dim=0', 'at least 1'):
    init('mla', latent_dim=0)
  with fails(ValueError, 'width 12', 'qkv_features=15'):
    init('el', qkv_features=15)


@pytest.mark.parametrize('name', ['mha', 'mhe_add'])
def test_bad_mask_shape(name):
  bad = np.ones((2, 1, 11, 7), bool)
  with fails(ValueError, r'\(2, 1, 11, 7\)', r'expected \(2, 3, 11, 11\)'):
    init(name, apply=dict(mask=bad))
  bad = attention.Mask(key_valid=np.ones((2, 11), bool))
  with fails(ValueError, r'mask.key_valid', r'\(2, 11\)', r'\(2, 7\)'):
    init(name, X, Y, apply=dict(mask=bad))


@pytest.mark.parametrize('name', ['skv', 'el', 'mla'])
def test_values_that_are_keys_take_no_inputs_v(name):
  fields = V.FIELDS.get(name, {})
  # The same array, too: under a transformation nobody could tell.
  for z in (Y, Y + 1):
    with fails(ValueError, 'values are its keys', 'inputs_v'):
      init(name, X, Y, z, **fields)


@pytest.mark.parametrize('dtype', ['float32', 'int32'])
def test_a_mask_of_numbers(dtype):
  """Of 0 and -1e9 a cast would make the opposite."""
  mask = np.where(np.tril(np.ones((11, 11), bool)), 0, -(10**9)).astype(dtype)
  with fails(TypeError, f'mask is {dtype}', 'expected bool'):
    init('mha', apply=dict(mask=mask))
  valid = attention.Mask(key_valid=np.full((2, 11), 2, dtype))
  with fails(TypeError, f'mask.key_valid is {dtype}', 'expected bool'):
    init('mha', apply=dict(mask=valid))
  layer = attention.build('mha', num_heads=3, decode=True)
  tree = layer.init(KEY, X)
  with fails(TypeError, f'mask.key_valid is {dtype}', 'expected bool'):
    layer.apply(tree, X, mask=valid, mutable=['cache'])


@pytest.mark.parametrize('mask', ['causal', b'causal', {}, [[True], []]])
def test_a_mask_that_is_no_array(mask):
  got = type(mask).__name__
  with fails(TypeError, f'^mask is a {got}, expected an array of bool, True'):
    init('mha', apply=dict(mask=mask))
  part = attention.Mask(key_valid='all')
  with fails(TypeError, '^mask.key_valid is a str, expected an array of bool'):
    init('mha', apply=dict(mask=part))
  with fails(TypeError, '^lengths is a str, expected an array of int'):
    layer = attention.build('mha', num_heads=3, decode=True)
    layer.apply(layer.init(KEY, X), X, lengths='all', mutable=['cache'])


@pytest.mark.parametrize(
  'k, v, name, expected',
  [
    ((3, 7, 12), None, 'inputs_k', r'\(2, 7\)'),
    ((7, 12), None, 'inputs_k', r'\(2, 7\)'),
    ((2, 7, 12), (2, 5, 12), 'inputs_v', r'\(2, 7\)'),
    ((2, 7, 12), (1, 7, 12), 'inputs_v', r'\(2, 7\)'),
  ],
)
def test_inputs_of_other_lengths_or_batches(k, v, name, expected):
  args = [np.ones(shape, 'float32') for shape in (k, v) if shape]
  with fails(ValueError, f'{name} has shape', f'expected {expected}'):
    init('mha', X, *args)


@pytest.mark.parametrize('name', ['positions', 'key_positions'])
def test_positions_of_another_type_or_shape(name):
  length = dict(positions=11, key_positions=7)[name]
  call = lambda x: init('mha', X, Y, apply={name: x})
  call(np.ones((2, length), int))
  with fails(TypeError, f'{name} is float', 'expected int'):
    call(np.ones((2, length)))
  with fails(TypeError, f'{name} is bool', 'expected int'):
    call(np.ones((2, length), bool))
  for odd in ((2, 5), (3, length), (length,), (), (2, 1), (2, length, 1)):
    with fails(ValueError, f'{name} has shape', rf'expected \(2, {length}\)'):
      call(np.ones(odd, int))


def test_key_positions_need_inputs_k():
  with fails(ValueError, 'key_positions needs inputs_k'):
    init('mha', apply=dict(key_positions=np.ones((2, 11), int)))


@pytest.mark.parametrize('name', sorted({*VARIANTS} - {'mha', 'gqa', 'sha'}))
def test_normalize_qk_of_variants_without_plain_projections(name):
  with fails(ValueError, 'no normalize_qk'):
    init(name, normalize_qk=True, **V.FIELDS.get(name, {}))


def test_inputs_v_needs_inputs_k():
  with fails(ValueError, 'inputs_v needs inputs_k'):
    init('mha', X, None, Y)


def test_decoding_arguments():
  lengths = np.array([1, 2])
  with fails(ValueError, 'lengths', 'decodes'):
    init('mha', apply=dict(lengths=lengths))
  layer = attention.build('mha', num_heads=3, decode=True)
  own, cross = layer.init(KEY, X), layer.init(KEY, X, Y)

  def call(tree, *args, **kwargs):
    return layer.apply(tree, *args, mutable=['cache'], **kwargs)

  filled = cross | call(cross, Y, method='prefill_memory')[1]

  with fails(ValueError, '7 tokens', '11 of inputs_q', 'prefill_memory'):
    call(own, X, Y)
  with fails(ValueError, '7 tokens', '11 of inputs_q', 'prefill_memory'):
    call(cross, X, Y)
  with fails(ValueError, 'no memory yet', 'prefill_memory', 'every call'):
    call(cross, X)
  with fails(ValueError, 'inputs_q only', 'prefill_memory'):
    call(filled, X, Y)
  with fails(ValueError, 'cache has 2 rows', '3'):
    call(filled, np.ones((3, 1, 12), 'float32'))
  with fails(ValueError, 'inputs_q only', 'lengths', 'prefill_memory'):
    call(filled, X, lengths=lengths)
  long = np.ones((2, 8, 12), 'float32')
  with fails(ValueError, 'memory of 8', 'cache of 7'):
    call(cross, long, method='prefill_memory')
  with fails(ValueError, 'prefill_memory', 'cross attention'):
    call(own, Y, method='prefill_memory')
  with fails(ValueError, 'cache has 2 rows', '3'):
    call(own, np.ones((3, 1, 12), 'float32'))
  with fails(ValueError, 'cache has 2 rows', '3'):
    call(cross, np.ones((3, 7, 12), 'float32'), method='prefill_memory')
  for odd in (np.array([1, 2, 3]), np.array([[1, 2]]), np.array(1)):
    with fails(ValueError, 'lengths has shape', r'expected \(2,\)'):
      call(own, X, lengths=odd)
    with fails(ValueError, 'lengths has shape', r'expected \(2,\)'):
      call(cross, Y, lengths=odd, method='prefill_memory')
  with fails(TypeError, 'lengths is float', 'expected int'):
    call(own, X, lengths=np.array([1.0, 2.0]))
  mask = attention.Mask(causal=True, q_positions=np.zeros((2, 11), int))
  with fails(ValueError, 'cache decides q_positions'):
    call(own, X, mask=mask)
  with fails(ValueError, r'mask', r'\(2, 3, 1, 11\)'):
    call(own, X[:, :1], mask=np.ones((2, 1, 1, 10), bool))
  plain = attention.build('mha', num_heads=3)
  with fails(ValueError, 'prefill_memory', 'decode=True'):
    plain.apply(plain.init(KEY, X), Y, method='prefill_memory')


@pytest.mark.parametrize(
  'wrong, words',
  [(np.ones(4), r'inputs_q is \(4,\)'), ([[1.0, 2.0]], 'inputs_q is list')],
)
def test_inputs_without_tokens_or_shape(wrong, words):
  layer = attention.build('mha', num_heads=2)
  with pytest.raises(ValueError, match=words + ', expected an array'):
    layer.init(jax.random.key(0), wrong)


@pytest.mark.parametrize(
  'widths', [(3, 2), (3, 2, -1), (3, 2, 1.0), (0, 0, 0), [3, 2, 1], 3]
)
def test_value_dims_that_are_no_widths(widths):
  with fails(ValueError, 'value_dims=', 'a tuple of num_heads=3 widths'):
    attention.build('mha', num_heads=3, value_dims=widths)


@pytest.mark.parametrize('name', ['gqa', 'mla', 'mhe_add', 'skv'])
def test_value_dims_of_variants_whose_heads_share_values(name):
  fields = V.FIELDS.get(name, {}) | dict(num_heads=3, value_dims=(3, 2, 1))
  with fails(ValueError, 'has no value_dims; of normalize_qk, qk_norm, rope,'):
    attention.build(name, **fields)


@pytest.mark.parametrize(
  'name, fields, words',
  [
    ('mhe_add', dict(soft_cap=5.0), 'soft_cap needs rope with fraction=1'),
    (
      'mhe_add',
      dict(soft_cap=5.0, rope=dict(fraction=0.5)),
      'soft_cap needs rope with fraction=1',
    ),
    ('mhe_mul', dict(fold=True), 'fold=True is a form under rope'),
    (
      'collab',
      dict(shared_dim=6, rope=dict(base=100.0)),
      "shared_dim=6 has 2 spectra of odd width 3.*spectrum='shared'",
    ),
  ],
)
def test_forms_that_do_not_go_together(name, fields, words):
  layer = attention.build(name, num_heads=2, **fields)
  with pytest.raises(ValueError, match=words):
    layer.init(jax.random.key(0), np.ones((1, 3, 16), 'float32'))
