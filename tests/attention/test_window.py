# SPDX-License-Identifier: Apache-2.0
"""A sliding window: what it hides, and a cache that does not grow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.accounting import trace
from tests.attention.test_rotation import (
  CASES,
  B,
  T,
  build,
  exact,
  expected,
  inputs,
  params,
)
from tests.attention.variants import empty_cache
from tests.few import few

W = 4
MASK = attention.Mask(causal=True, window=W)
# Caches of all kinds: of rotated keys, of keys that rotate on reading, of a
# window of one vector, with a bias of the keys.
QUICK = ['mha', 'mhe_mul', 'mla', 'mhe_add_half']
every_case = few(CASES, QUICK)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


@functools.cache
def full(case):
  x = inputs(case)[0]
  run = jax.jit(lambda p: build(case).apply({'params': p}, x, mask=MASK))
  return np.asarray(run(params(case)))


class Decoder:
  """A decoding layer under jit, whose cache holds a window."""

  def __init__(self, case, rows=B, **how):
    layer, p = build(case, decode=True), params(case)
    x = inputs(case)[0][:rows]
    self.cache = empty_cache(layer, x, mask=MASK)

    @jax.jit
    def step(cache, x, **kwargs):
      tree = dict(params=p, cache=cache)
      o, new = layer.apply(tree, x, mutable=['cache'], **how, **kwargs)
      return o, new['cache']

    self.step = step

  def __call__(self, x, **kwargs):
    o, self.cache = self.step(self.cache, x, **kwargs)
    return np.asarray(o)

  @property
  def past(self):
    return self.cache['past']


@every_case
def test_a_window_hides_what_is_further_back(case):
  x = inputs(case)[0]
  rows = np.arange(T)[:, None]
  dense = (np.arange(T) <= rows) & (np.arange(T) > rows - W)
  exact(full(case), expected(case, params(case), x, mask=dense))


def test_a_window_of_the_layer_is_that_of_a_mask():
  x, p = inputs('mha')[0], params('mha')
  layer = build('mha', window=np.int64(W))
  own = attention.Mask(causal=True, window=W)
  for mask in (None, own, attention.Mask(), np.ones((T, T), bool)):
    o = layer.apply({'params': p}, x, mask=mask)
    exact(np.asarray(o), full('mha'))
  with pytest.raises(ValueError, match='is 3, but the layer has window=4'):
    layer.apply({'params': p}, x, mask=own.replace(window=3))
  cache = build('mha', window=W, decode=True).init(jax.random.key(0), x)
  assert cache['cache']['past'].length == W
  for bad in (0, 2**31):
    with pytest.raises(ValueError, match=f'window={bad}; expected at least 1'):
      build('mha', window=bad)


def test_a_layer_without_the_bias_of_its_output():
  layer = attention.build('mha', num_heads=3, use_out_bias=False)
  tree = jax.eval_shape(layer.init, jax.random.key(0), np.ones((1, 2, 6)))
  unbiased = [name for name, x in tree['params'].items() if 'bias' not in x]
  assert unbiased == ['out']


@every_case
@pytest.mark.parametrize('chunks', [(T,), (1,) * T, (3, 1, 1, 6)])
def test_decoding_is_the_pass_under_the_window(case, chunks):
  decode, ends = Decoder(case), np.cumsum(chunks)
  assert {x.shape[2] for x in jax.tree.leaves(decode.past.kept)} == {W}
  size = sum(x.size for x in jax.tree.leaves(decode.past.kept)) / (B * W)
  assert size == build(case).cache_size(inputs(case)[0].shape[-1])
  parts = [decode(x) for x in np.split(inputs(case)[0], ends[:-1], axis=1)]
  exact(np.concatenate(parts, 1), full(case))
  assert decode.past.length == W
  assert decode.past.index.tolist() == [T] * B


@every_case
def test_ragged_rows_keep_what_their_own_next_tokens_need(case):
  """Padding of the short row must not push out what it still sees."""
  x, decode = inputs(case)[0], Decoder(case)
  o = decode(x[:, :7], lengths=np.array([5, 7]))
  exact(o[0, :5], full(case)[0, :5])
  exact(o[1], full(case)[1, :7])
  part = np.stack([x[0, 5:8], x[1, 7:10]])
  o = decode(part, lengths=np.array([1, 3]))
  exact(o[0, :1], full(case)[0, 5:6])
  exact(o[1], full(case)[1, 7:10])
  # A token that is not real, in a row alone.
  token = np.stack([x[0, 6], 100 * x[1, 0]])[:, None]
  exact(decode(token, lengths=np.array([1, 0]))[0], full(case)[0, 6:7])
  token = np.stack([x[0, 7], x[1, 10]])[:, None]
  o = decode(token)
  exact(o[0, 0], full(case)[0, 7])
  exact(o[1, 0], full(case)[1, 10])


@pytest.mark.parametrize('case', ['mha', 'skv'])
def test_one_row_decodes_token_by_token(case):
  """Its tokens are written in place; those that are not real change nothing."""
  x, decode, o = inputs(case)[0][:1], Decoder(case, rows=1), []
  for i in range(T):
    decode(100 * x[:, :1], lengths=np.array([0]))
    o.append(decode(x[:, i : i + 1]))
  exact(np.concatenate(o, 1), full(case)[:1])


def test_a_window_has_no_end():
  """More tokens than init had; only the last W of them count."""
  case = 'mha'
  x, decode = inputs(case)[0], Decoder(case)
  for _ in range(3):
    decode(x)
  assert decode.past.index.tolist() == [3 * T] * B
  assert not decode.past.overflowed.any()
  o, at = decode(x[:, :1]), 3 * T + np.arange(1 - W, 1)[None]
  kept = np.concatenate([x[:, 1 - W :], x[:, :1]], 1)
  tree = {'params': params(case)}
  run = functools.partial(build(case).apply, mask=MASK, positions=at)
  want = jax.jit(run)(tree, kept)
  exact(o, want[:, -1:])


@pytest.mark.parametrize('wrong', [-1, 4])
def test_lengths_that_cannot_be_spoil_their_row_for_good(wrong):
  x, decode = inputs('mha')[0], Decoder('mha')
  o = decode(x[:, :3], lengths=np.array([3, wrong]))
  exact(o[0], full('mha')[0, :3])
  assert np.isnan(o[1]).all()
  for lengths in (np.array([1, wrong]), np.array([1, 1])):
    o = decode(x[:, 3:4], lengths=lengths)
    assert np.isnan(o[1]).all()
    assert np.isfinite(o[0]).all()
  assert decode.past.overflowed.tolist() == [False, True]


def test_given_positions_are_kept_with_their_keys():
  x, at = inputs('skv')[0], 3 * np.arange(T)[None] - 7
  tree = {'params': params('skv')}
  run = functools.partial(build('skv').apply, mask=MASK, positions=at)
  want = jax.jit(run)(tree, x)
  decode = Decoder('skv')
  o = [
    decode(x[:, i:j], positions=at[:, i:j])
    for i, j in ((0, 6), (6, 7), (7, 8), (8, T))
  ]
  exact(np.concatenate(o, 1), want)


def test_the_window_of_a_cache_is_that_of_its_calls():
  x = inputs('mha')[0]
  exact(Decoder('mha', mask=MASK)(x), full('mha'))
  exact(Decoder('mha', mask=attention.Mask(causal=True))(x), full('mha'))
  for mask in (
    MASK.replace(window=W + 1),
    MASK.replace(key_valid=np.ones((B, T), bool)),
    np.ones((T, T), bool),
  ):
    with pytest.raises(ValueError, match=f'holds a window of {W} keys'):
      Decoder('mha', mask=mask)(x)


def test_a_cache_as_long_as_its_rows_is_an_ordinary_one():
  """A window in the masks of the calls hides, and nothing rolls."""
  layer, x = build('mha', decode=True), inputs('mha')[0]
  tree, o = {'params': params('mha')}, []
  run = jax.jit(lambda *x: layer.apply(*x, mask=MASK, mutable=['cache']))
  wide = MASK.replace(window=T)
  cache = empty_cache(layer, x, mask=wide)
  assert cache['past'].length == T
  assert not cache['past'].window
  for part in np.split(x, [6, 7], axis=1):
    new, state = run(tree | dict(cache=cache), part)
    cache = state['cache']
    o.append(new)
  exact(jnp.concatenate(o, 1), full('mha'))


def test_a_long_prompt_skips_what_the_window_hides():
  """No product of all its tokens with all keys is computed."""
  layer = build('mha', decode=True)
  D, n, w = 19, 4096, 128
  x = jax.ShapeDtypeStruct((1, n, D), jnp.float32)
  mask = attention.Mask(causal=True, window=w)
  init = functools.partial(layer.init, mask=mask)
  tree = jax.eval_shape(init, jax.random.key(0), x)
  run = lambda tree, x: layer.apply(tree, x, mutable=['cache'])[0]
  dense = 2 * 2 * n * n * 3 * 14
  assert trace.flops(run, tree, x) < 0.12 * dense


@few(['mha', 'mhe_add_half'], ['mha'])
def test_a_prompt_in_chunks_reads_the_cache_as_far_as_it_is_filled(case):
  layer, p, L, n = build(case, decode=True), params(case), 1024, 16
  x = np.random.default_rng(0).normal(size=(1, L, 19))
  whole = functools.partial(build(case).apply, mask=MASK.replace(window=None))
  dense = jax.jit(whole)({'params': p}, x)
  cache = empty_cache(layer, x)

  def run(cache, x):
    return layer.apply(dict(params=p, cache=cache), x, mutable=['cache'])

  scores = f'f64[1,{1 if case != "mha" else 3},{n},{{}}] = exp'
  text = str(jax.make_jaxpr(run)(cache, x[:, :n]))
  assert all(scores.format(L * i // 8) in text for i in range(1, 9))
  step = jax.jit(run)
  for start in (0, 112, 120, 500, L - n):
    past = cache['past']
    held = step(cache, x)[1]['cache']['past'] if start else past
    index = jnp.full_like(past.index, start)
    o, _ = step(dict(past=held.replace(index=index)), x[:, start : start + n])
    exact(o, dense[:, start : start + n])


def test_positions_of_queries_without_a_cache_are_one_program():
  layer, x = build('mha'), jnp.ones((1, 1024, 19))
  mask = attention.Mask(causal=True, q_positions=np.arange(1024)[None])
  run = lambda p: layer.apply({'params': p}, x, mask=mask)
  assert 'cond[' not in str(jax.make_jaxpr(run)(params('mha')))


def test_a_call_without_tokens_changes_nothing():
  decode = Decoder('mha')
  first = decode(inputs('mha')[0][:, :W])
  none = decode(inputs('mha')[0][:, :0])
  assert none.shape == (B, 0, first.shape[-1])
  exact(decode(inputs('mha')[0][:, W : W + 1]), full('mha')[:, W : W + 1])


@pytest.mark.parametrize(
  'mask, words',
  [
    (attention.Mask(causal=True, window='4'), "mask.window is '4'"),
    (attention.Mask(causal=True, offset=None), 'mask.offset is None'),
  ],
)
def test_types_of_a_mask_that_makes_a_cache(mask, words):
  x = inputs('mha')[0]
  with pytest.raises(TypeError, match=words):
    build('mha', decode=True).init(jax.random.key(0), x, mask=mask)


def test_a_window_is_for_a_cache_of_ones_own_keys():
  x = inputs('mha')[0]
  with pytest.raises(ValueError, match='init without inputs_k'):
    build('mha', decode=True).init(jax.random.key(0), x, x, mask=MASK)


def test_a_cache_decides_the_offset():
  layer, x = build('mha', decode=True), inputs('mha')[0]
  cache = empty_cache(layer, x)
  with pytest.raises(ValueError, match='decides q_positions and offset'):
    layer.apply(
      dict(params=params('mha'), cache=cache),
      x[:, :1],
      mask=attention.Mask(causal=True, offset=5),
      mutable=['cache'],
    )
