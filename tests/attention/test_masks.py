# SPDX-License-Identifier: Apache-2.0
"""A Mask is the conjunction that its docstring says, block by block."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.attention import masks

B, H, T, S = 2, 3, 5, 7
PARTS = (
  *('causal', 'key_valid', 'segments', 'positions', 'dense'),
  *('window', 'offset'),
)
DENSE = [(B, H, T, S), (1, 1, T, S), (B, 1, 1, S), (1, H, 1, S), (B, 1, T, 1)]


def make(parts, dense=DENSE[0], rows=B, seed=0):
  """A Mask of the parts, each random."""
  rng = np.random.default_rng(seed)
  needs = {'causal', 'positions', 'window', 'offset'}
  fields = dict(causal=not needs.isdisjoint(parts))
  if 'window' in parts:
    fields['window'] = int(rng.integers(1, S))
  if 'offset' in parts:
    fields['offset'] = int(rng.integers(1, S))
  if 'key_valid' in parts:
    fields['key_valid'] = rng.random((rows, S)) < 0.7
  if 'segments' in parts:
    fields['q_segments'] = rng.integers(0, 2, (rows, T))
    fields['kv_segments'] = rng.integers(0, 2, (rows, S))
  if 'positions' in parts:
    fields['q_positions'] = rng.integers(0, S, (rows, T))
  if 'dense' in parts:
    fields['dense'] = rng.random(dense) < 0.7
  return masks.Mask(**fields)


def literal(mask, B=B, H=H, T=T, S=S):
  """The docstring's lines for each pair."""
  at = lambda x, *i: x[tuple(j if n > 1 else 0 for j, n in zip(i, x.shape))]  # noqa: B905
  allowed = np.ones((B, H, T, S), bool)
  for b, h, t, s in np.ndindex(B, H, T, S):
    if mask.causal:
      p = t + mask.offset
      if mask.q_positions is not None:
        p = at(mask.q_positions, b, t)
      allowed[b, h, t, s] &= s <= p
      if mask.window is not None:
        allowed[b, h, t, s] &= s > p - mask.window
    if mask.key_valid is not None:
      allowed[b, h, t, s] &= at(mask.key_valid, b, s)
    if mask.q_segments is not None:
      q, kv = at(mask.q_segments, b, t), at(mask.kv_segments, b, s)
      allowed[b, h, t, s] &= q == kv
    if mask.dense is not None:
      allowed[b, h, t, s] &= at(mask.dense, b, h, t, s)
  return allowed


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
  parts=st.sets(st.sampled_from(PARTS), min_size=1),
  dense=st.sampled_from(DENSE),
  rows=st.sampled_from([1, B]),
  block=st.integers(1, T),
  ends=st.lists(st.integers(0, S), min_size=2, max_size=2, unique=True),
  seed=st.integers(0, 9),
)
def test_blocks_are_the_docstring(parts, dense, rows, block, ends, seed):
  mask = make(parts, dense, rows, seed)
  n = -(-T // block)
  first, stop = sorted(ends)

  @jax.jit
  def cut(mask):
    padded = masks.check(mask, (B,), H, T, S).pad_rows(n * block - T)
    return [padded.block(i * block, block, stop, first) for i in range(n)]

  got = cut(mask)
  shape = (B, H, block, stop - first)
  got = np.concatenate([np.broadcast_to(x, shape) for x in got], 2)[:, :, :T]
  np.testing.assert_array_equal(got, literal(mask)[..., first:stop])


def test_no_part_allows_everything():
  assert masks.Mask().block(0, T, S) is None
  assert masks.check(masks.Mask(), (B,), H, T, S) is None
  assert masks.check(None, (B,), H, T, S) is None


def test_self_attention_needs_one_segment_array():
  segments = jnp.asarray([[0, 0, 1, 1, 1]])
  mask = masks.check(masks.Mask(q_segments=segments), (B,), H, T, T)
  want = np.asarray(segments)[0][:, None] == np.asarray(segments)
  np.testing.assert_array_equal(mask.block(0, T, T)[0, 0], want)


@pytest.mark.parametrize(
  'shape', [(S,), (T, S), (1, S), (H, T, S), (B, 1, T, S), (1, 1, 1, 1)]
)
def test_arrays_broadcast_as_in_linen(shape):
  array = np.random.default_rng(0).random(shape) < 0.5
  got = masks.check(array, (B,), H, T, S)
  want = np.broadcast_to(array, (B, H, T, S))
  np.testing.assert_array_equal(
    np.broadcast_to(got.block(0, T, S), (B, H, T, S)), want
  )


@pytest.mark.parametrize(
  'shape', [(2, 3, H, T, S), (3, 1, T, S), (2, 1, 1, 1, S), (T, S), (H, T, S)]
)
def test_extra_batch_axes_are_flattened(shape):
  array = np.random.default_rng(0).random(shape) < 0.5
  got = masks.check(array, (2, 3), H, T, S)
  want = np.broadcast_to(array, (2, 3, H, T, S)).reshape(6, H, T, S)
  np.testing.assert_array_equal(
    np.broadcast_to(got.block(0, T, S), want.shape), want
  )


@pytest.mark.parametrize('batch', [(), (4,), (2, 3)])
@pytest.mark.parametrize('lead', ['all', 'ones', 'flat'])
@pytest.mark.parametrize('part', ['key_valid', 'segments', 'positions'])
def test_every_part_has_the_batch_axes_of_the_call(batch, lead, part):
  n = math.prod(batch)
  shape = dict(all=batch, ones=[1] * len(batch), flat=(n,))[lead]
  mask = make([part], rows=math.prod(shape))
  with_axes = jax.tree.map(lambda x: x.reshape(*shape, x.shape[1]), mask)
  whole = lambda mask: masks.check(mask, batch, H, T, S).block(0, T, S)
  got = np.broadcast_to(jax.jit(whole)(with_axes), (n, H, T, S))
  np.testing.assert_array_equal(got, literal(mask, B=n))


def test_a_part_that_one_batch_axis_shares_is_spread():
  valid = np.random.default_rng(0).random((2, 1, S)) < 0.7
  got = masks.check(masks.Mask(key_valid=valid), (2, 3), H, T, S).key_valid
  np.testing.assert_array_equal(got, np.repeat(valid[:, 0], 3, 0))


ADDITIVE = np.where(np.tril(np.ones((T, S), bool)), 0, -1e9)


@pytest.mark.parametrize(
  'mask, words',
  [
    (ADDITIVE.astype('float32'), 'mask is float32, expected bool'),
    (np.tril(np.ones((T, S), 'int8')), 'mask is int8, expected bool'),
    (masks.Mask(dense=ADDITIVE), r'mask is float\d+, expected bool'),
    (
      masks.Mask(key_valid=np.full((B, S), 2)),
      r'mask.key_valid is int\d+, expected bool',
    ),
    (
      masks.Mask(q_segments=np.ones((B, T)), kv_segments=np.ones((B, S), int)),
      r'mask.q_segments is float\d+, expected int',
    ),
    (
      masks.Mask(q_segments=np.ones((B, T), int), kv_segments=np.ones((B, S))),
      r'mask.kv_segments is float\d+, expected int',
    ),
    (
      masks.Mask(q_segments=np.ones((B, T), bool), kv_segments=np.ones((B, S))),
      'mask.q_segments is bool, expected int',
    ),
    (
      masks.Mask(causal=True, q_positions=np.ones((B, T))),
      r'mask.q_positions is float\d+, expected int',
    ),
    (masks.Mask(causal=1), 'mask.causal is 1, expected a Python bool'),
    (masks.Mask(causal=np.array(True)), 'expected a Python bool'),
  ],
)
def test_truth_and_numbers_are_not_mixed_up(mask, words):
  with pytest.raises(TypeError, match=words):
    masks.check(mask, (B,), H, T, S)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
  parts=st.sets(st.sampled_from(PARTS)),
  dense=st.sampled_from(DENSE),
  seed=st.integers(0, 9),
)
def test_visible_forgets_no_key_that_somebody_sees(parts, dense, seed):
  """Exact for key_valid and dense, an upper bound under the other parts."""
  mask = make(parts, dense, seed=seed)
  seen = literal(mask).any((1, 2))
  visible = mask.visible()
  if visible is None:
    assert not {'key_valid', 'dense'} & parts
    return
  visible = np.broadcast_to(visible, (B, S))
  assert (visible >= seen).all()
  if parts <= {'key_valid', 'dense'}:
    np.testing.assert_array_equal(visible, seen)


def test_per_head():
  assert make(['dense'], DENSE[3]).per_head
  assert not make(['dense'], DENSE[1]).per_head
  assert not make(['causal', 'key_valid']).per_head


def test_a_mask_is_a_pytree_whose_structure_holds_causal():
  mask = make(['causal', 'key_valid'])
  f = jax.jit(lambda mask: mask.block(0, T, S))
  np.testing.assert_array_equal(
    np.broadcast_to(f(mask), (B, H, T, S)), literal(mask)
  )
  free = mask.replace(causal=False)
  np.testing.assert_array_equal(
    np.broadcast_to(f(free), (B, H, T, S)), literal(free)
  )


@pytest.mark.parametrize(
  'field, shape, expected',
  [
    ('key_valid', (B, S + 1), '(2, 7)'),
    ('key_valid', (S,), '(2, 7)'),
    ('key_valid', (B, 1), '(2, 7)'),
    ('q_segments', (B, S), '(2, 5)'),
    ('dense', (B, H, S, T), '(2, 3, 5, 7)'),
    ('dense', (1, B, H, T, S), '(2, 3, 5, 7)'),
  ],
)
def test_wrong_shapes_are_told(field, shape, expected):
  dtype = 'bool' if field in ('key_valid', 'dense') else 'int32'
  fields = {field: np.ones(shape, dtype)}
  with pytest.raises(ValueError, match='mask') as error:
    masks.check(masks.Mask(**fields), (B,), H, T, S)
  words = str(error.value)
  assert f'{shape}' in words
  assert f'expected {expected}' in words
  assert ('.' + field in words) == (field != 'dense')


def test_parts_that_mean_nothing_alone():
  with pytest.raises(ValueError, match='kv_segments but no q_segments'):
    masks.check(masks.Mask(kv_segments=np.ones((B, S))), (B,), H, T, S)
  with pytest.raises(ValueError, match=r'q_positions.*causal=True'):
    masks.check(masks.Mask(q_positions=np.ones((B, T))), (B,), H, T, S)


@pytest.mark.parametrize(
  'fields, error, words',
  [
    (dict(window=2.0), TypeError, 'mask.window is 2.0, expected a Python int'),
    (dict(window=True), TypeError, 'mask.window is True, expected a Python'),
    (dict(window=0), ValueError, 'mask.window is 0, expected at least 1'),
    (dict(offset=-1), ValueError, 'mask.offset is -1, expected at least 0'),
    (dict(window=10**12), ValueError, f'window is {10**12}, .* below {2**31}'),
    (dict(window=2), ValueError, 'Mask has window, which needs causal=True'),
    (dict(offset=2), ValueError, 'Mask has offset, which needs causal=True'),
  ],
)
def test_windows_that_cannot_be(fields, error, words):
  causal = 'needs' not in words
  with pytest.raises(error, match=words):
    masks.check(masks.Mask(causal=causal, **fields), (B,), H, T, S)


def test_parts_of_several_int_types_compare_under_strict_promotion():
  mask = masks.Mask(
    causal=True,
    q_segments=np.zeros((B, T), 'int8'),
    kv_segments=np.zeros((B, S), 'uint16'),
    q_positions=np.arange(T, dtype='int16')[None],
  )
  with jax.numpy_dtype_promotion('strict'):
    got = masks.check(mask, (B,), H, T, S).block(0, T, S)
  np.testing.assert_array_equal(got[0, 0], np.tril(np.ones((T, S), bool)))


@pytest.mark.parametrize(
  'given', [np.array([[0, 0, 1, 1]]) << 32, [[2**40] * 4]]
)
def test_integers_that_do_not_fit_are_refused(given):
  """A cast to 32 bits would make one segment of two."""
  with pytest.raises(ValueError, match=r'^mask\.q_segments'):
    masks.check(masks.Mask(q_segments=given), (1,), 1, 4, 4)
