# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: rates, rotation, scalings; and what they refuse."""

import cmath
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import rope
from collab.attention.rope import Rope

B, S, G, K = 2, 7, 3, 10
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def planes(x):
  """x [*, K] as K / 2 complex numbers."""
  a, b = np.split(np.asarray(x), 2, -1)
  return a + 1j * b


def test_each_plane_turns_by_its_rate():
  x, at = RNG.normal(size=(B, S, G, K)), RNG.integers(-50, 50, (B, S))
  got = planes(Rope(base=73.0).rotate(jnp.asarray(x), jnp.asarray(at)))
  for b, s, g, i in np.ndindex(B, S, G, K // 2):
    turn = cmath.exp(1j * at[b, s] * 73.0 ** (-2 * i / K))
    np.testing.assert_allclose(
      got[b, s, g, i], planes(x)[b, s, g, i] * turn, atol=1e-12
    )


def test_one_row_of_positions_serves_all():
  x, at = jnp.asarray(RNG.normal(size=(B, S, G, K))), np.arange(S)[None]
  turned = Rope().rotate(x, jnp.asarray(at))
  each = Rope().rotate(x, jnp.asarray(np.repeat(at, B, 0)))
  np.testing.assert_array_equal(turned, each)


def test_a_fraction_rotates_the_first_dimensions_at_the_rates_of_its_width():
  x, at = jnp.asarray(RNG.normal(size=(B, S, G, K))), jnp.arange(S)[None]
  got = Rope(fraction=0.6).rotate(x, at)
  np.testing.assert_array_equal(got[..., 6:], x[..., 6:])
  np.testing.assert_array_equal(got[..., :6], Rope().rotate(x[..., :6], at))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_angles_are_at_least_float32(dtype):
  at = jnp.asarray([[0, 1, 4097]])
  x = jnp.asarray(RNG.normal(size=(1, 3, 1, K)), dtype)
  got = Rope().rotate(x, at)
  assert got.dtype == dtype
  want = Rope().rotate(x.astype('float64'), at)
  eps = float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(
    got.astype('float64'), want, atol=4 * max(eps, 4097 * 2**-24)
  )


def test_products_and_conjugates_are_those_of_complex_numbers():
  x, y = RNG.normal(size=(2, G, K))
  np.testing.assert_allclose(
    planes(rope.multiply(x, y)), planes(x) * planes(y), atol=1e-14
  )
  np.testing.assert_array_equal(planes(rope.conjugate(x)), planes(x).conj())
  partial = Rope(fraction=0.4).conjugate(x)
  np.testing.assert_array_equal(partial[..., 4:], x[..., 4:])
  np.testing.assert_array_equal(
    planes(partial[..., :4]), planes(x[..., :4]).conj()
  )


# Scalings, plane by plane -----------------------------------------------------

BASE, N, LONG = 500.0, 16, 64


def rates(**scaling):
  return Rope(BASE, scaling=scaling).rates(N)


def plain(i, base=BASE):
  return base ** (-2 * i / N)


def test_default():
  for scaling in (None, dict(rope_type='default')):
    got, factor = Rope(BASE, scaling=scaling).rates(N)
    np.testing.assert_allclose(got, [plain(i) for i in range(N // 2)])
    assert factor == 1
  assert Rope(scaling=dict(rope_type='default')) == Rope()


def test_linear():
  got, factor = rates(rope_type='linear', factor=4.0)
  np.testing.assert_allclose(got, [plain(i) / 4 for i in range(N // 2)])
  assert factor == 1


@pytest.mark.parametrize('length, grown', [(None, 1), (40, 1), (160, 2.5)])
def test_dynamic(length, grown):
  got, factor = rates(
    rope_type='dynamic',
    factor=3.0,
    original_max_position_embeddings=LONG,
    length=length,
  )
  base = BASE * (3.0 * grown - 2.0) ** (N / (N - 2))
  np.testing.assert_allclose(got, [plain(i, base) for i in range(N // 2)])
  assert factor == 1


def test_llama3():
  got, factor = rates(
    rope_type='llama3',
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=LONG,
  )
  kinds = set()
  for i in range(N // 2):
    wave = 2 * math.pi / plain(i)
    if wave < LONG / 4:
      kind, want = 'fast', plain(i)
    elif wave > LONG / 1:
      kind, want = 'slow', plain(i) / 8
    else:
      share = (LONG / wave - 1) / (4 - 1)
      kind, want = 'between', (1 - share) * plain(i) / 8 + share * plain(i)
    kinds.add(kind)
    assert got[i] == pytest.approx(want)
  assert kinds == {'fast', 'between', 'slow'}
  assert factor == 1


@pytest.mark.parametrize('truncate', [True, False])
def test_yarn(truncate):
  got, factor = rates(
    rope_type='yarn',
    factor=4.0,
    original_max_position_embeddings=LONG,
    beta_fast=8.0,
    beta_slow=0.5,
    truncate=truncate,
  )
  # A plane makes LONG / wave turns; its number as a real one, of the turns.
  first, last = (
    N * math.log(LONG / (turns * 2 * math.pi)) / (2 * math.log(BASE))
    for turns in (8.0, 0.5)
  )
  if truncate:
    first, last = math.floor(first), math.ceil(last)
  shares = []
  for i in range(N // 2):
    shares.append(min(max((i - first) / (last - first), 0), 1))
    want = shares[-1] * plain(i) / 4 + (1 - shares[-1]) * plain(i)
    assert got[i] == pytest.approx(want)
  assert 0 in shares
  assert 1 in shares
  assert factor == pytest.approx(0.1 * math.log(4) + 1)


def test_factors_of_yarn():
  known = dict(rope_type='yarn', original_max_position_embeddings=LONG)
  of = lambda **given: rates(**known, **given)[1]
  assert of(factor=1.0) == 1
  assert of(factor=4.0, attention_factor=1.25) == 1.25
  assert of(factor=4.0, mscale=1.0, mscale_all_dim=1.0) == 1
  assert of(factor=4.0, mscale=2.0, mscale_all_dim=0.5) == pytest.approx(
    (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1)
  )
  x, at = jnp.ones((1, 1, 1, N)), jnp.ones((1, 1), int)
  longer = Rope(
    BASE, scaling=dict(known, factor=1.0, attention_factor=1.25)
  ).rotate(x, at)
  np.testing.assert_allclose(longer, 1.25 * Rope(BASE).rotate(x, at))


# Errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
  'fields, error, words',
  [
    (dict(theta=1e4), TypeError, 'rope has no field theta; it has base, frac'),
    (dict(base=1), ValueError, 'rope.base=1; expected more than 1'),
    (dict(base='1e4'), ValueError, "rope.base='1e4'; expected more than 1"),
    (dict(fraction=0), ValueError, 'rope.fraction=0; expected more than 0'),
    (dict(fraction=1.5), ValueError, 'rope.fraction=1.5; expected at most 1'),
    (dict(scaling='linear'), TypeError, "scaling='linear'; expected a mapping"),
    (
      dict(scaling=dict(rope_type='longrope')),
      ValueError,
      "'longrope'; expected one of default, linear, dynamic, llama3, yarn",
    ),
    (dict(scaling=dict(factor=2.0)), ValueError, 'rope_type=None; expected'),
    (
      dict(scaling=dict(rope_type='linear')),
      ValueError,
      r"of linear has \[\]; expected \['factor'\]",
    ),
    (
      dict(scaling=dict(rope_type='linear', factor=2.0, beta=1.0)),
      ValueError,
      r"of linear has \['beta', 'factor'\]; expected \['factor'\]",
    ),
    (
      dict(scaling=dict(rope_type='linear', factor='2')),
      ValueError,
      "factor='2'; expected a number above 0",
    ),
    (
      dict(
        scaling=dict(
          rope_type='yarn',
          factor=2.0,
          original_max_position_embeddings=8,
          truncate=1,
        )
      ),
      ValueError,
      'truncate=1; expected a bool',
    ),
    (
      dict(
        scaling=dict(
          rope_type='llama3',
          factor=2.0,
          low_freq_factor=4.0,
          high_freq_factor=4.0,
          original_max_position_embeddings=8,
        )
      ),
      ValueError,
      'high_freq_factor=4.0; expected more than low_freq_factor=4.0',
    ),
  ],
)
def test_fields_that_cannot_be(fields, error, words):
  with pytest.raises(error, match=words):
    attention.build('mha', num_heads=2, rope=fields)


@pytest.mark.parametrize('fraction, n', [(1.0, 7), (0.5, 6), (0.1, 8)])
def test_planes_are_pairs(fraction, n):
  words = f'fraction={fraction} of a width of {n}'
  with pytest.raises(ValueError, match=words):
    Rope(fraction=fraction).rotated(n)
  assert Rope(fraction=1 / 3).rotated(12) == 4
  assert Rope(fraction=0.7).rotated(20) == 14


def test_a_layer_with_rope_is_hashable_and_takes_a_mapping():
  scaling = dict(rope_type='linear', factor=2.0)
  one = attention.build('mha', num_heads=2, rope=dict(scaling=scaling))
  two = attention.build('mha', num_heads=2, rope=Rope(scaling=scaling))
  assert one == two
  assert hash(one) == hash(two)
  assert attention.build('mha', num_heads=2, rope=None).rope is None
  with pytest.raises(TypeError, match=r'rope=10000.0; expected'):
    attention.build('mha', num_heads=2, rope=1e4)


class Ignores(attention.Attention, kw_only=True):
  """A variant that knows nothing of rotation."""

  def heads(self, x, y, z, positions):
    return attention.Heads(q=x[:, :, None], k=y[:, :, None])


class Rotates(Ignores, kw_only=True):
  """And one that forgets to ask for positions."""

  takes = ('rope',)

  def read(self, h, positions):
    return h._replace(k=self.rotate(h.k, positions.keys), v=h.k)


def test_a_variant_that_does_not_rotate_has_no_rope():
  attention.build(f'{__name__}:Ignores', num_heads=1)
  for field in (dict(rope={}), dict(qk_norm=True), dict(normalize_qk=True)):
    (name,) = field
    with pytest.raises(ValueError, match=f'Ignores has no {name}; .* none'):
      attention.build(f'{__name__}:Ignores', num_heads=1, **field)
  with pytest.raises(ValueError, match='normalize_qk and qk_norm exclude each'):
    attention.build('mha', num_heads=1, qk_norm=True, normalize_qk=True)
  with pytest.raises(ValueError, match='normalize_qk and rope exclude each'):
    attention.build('mha', num_heads=1, rope={}, normalize_qk=True)


def test_a_read_that_rotates_says_what_it_needs():
  x = jnp.ones((1, 3, 4))
  layer = attention.build(f'{__name__}:Rotates', num_heads=1, rope={})
  params = layer.init(jax.random.key(0), x)['params']
  decoder = layer.clone(decode=True)
  cache = decoder.init(jax.random.key(0), x)['cache']
  tree = dict(params=params, cache=cache)
  with pytest.raises(
    ValueError, match=r'Rotates.read .*reads_positions = True'
  ):
    decoder.apply(tree, x[:, :1], mutable=['cache'])
