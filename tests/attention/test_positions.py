# SPDX-License-Identifier: Apache-2.0
"""Positions reach the heads of a variant: whole, packed, decoded, of a memory.

The variant that looks at them is a multi-head attention under rotation (arXiv
2104.09864), which a shift of all positions does not change.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention.variants import variant
from tests.attention import variants as V
from tests.attention.variants import D_MEMORY, B, D, S, T, close, normal
from tests.few import few

RNG = np.random.default_rng(0)
X, Y = normal(RNG, B, T, D), normal(RNG, B, S, D_MEMORY)
CAUSAL = attention.Mask(causal=True)


class Rotary(variant('mha')):
  def heads(self, x, y, z, positions):
    h = super().heads(x, y, z, positions)
    q, k = rotate(h.q, positions.queries), rotate(h.k, positions.keys)
    return h._replace(q=q, k=k)


def rotate(x, at):
  """Pairs (i, K/2 + i) of x [B, T, H, K] by the angle at / 3^i."""
  K = x.shape[-1]
  angles = at[..., None, None] * 3.0 ** -np.arange(K // 2)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def build(**fields):
  return Rotary(num_heads=3, qkv_features=3 * 14, **fields)


def params(*inputs):
  return V.drawn(build(), *inputs)


@jax.jit
def apply(params, *inputs, **kwargs):
  return build().apply({'params': params}, *inputs, **kwargs)


def ints(low, high, *shape):
  return RNG.integers(low, high, shape)


@pytest.fixture(autouse=True)
def any_rank():
  """`rotate` is written as a user would."""
  with jax.numpy_rank_promotion('allow'):
    yield


@few(V.CASES, V.QUICK)
def test_a_variant_that_does_not_look_at_positions_compiles_to_the_same(case):
  layer, tree = V.build(case), {'params': V.params(case, memory=True)}
  inputs = V.inputs(case)

  def program(**kwargs):
    run = lambda *args: layer.apply(tree, *args, **kwargs)
    return jax.jit(run).lower(*inputs).as_text()

  given = dict(positions=ints(0, 99, B, T), key_positions=ints(0, 99, B, S))
  assert program() == program(**given)


def test_the_default_is_0_1_and_so_on():
  p = params(X)
  full = apply(p, X, mask=CAUSAL)
  close(apply(p, X, mask=CAUSAL, positions=np.arange(T)[None]), full)
  # A shift of all positions changes nothing; another order does.
  close(apply(p, X, mask=CAUSAL, positions=17 + np.arange(T)[None]), full)
  assert np.abs(apply(p, X, positions=ints(0, T, B, T)) - full).max() > 0.1


def test_keys_of_other_inputs_have_positions_of_their_own():
  p = params(X, Y)
  full = apply(p, X, Y)
  at, keys = np.arange(T)[None], np.arange(S)[None]
  close(apply(p, X, Y, positions=at + 5, key_positions=keys + 5), full)
  assert np.abs(apply(p, X, Y, positions=at + 5) - full).max() > 0.01
  assert np.abs(apply(p, X, Y, key_positions=keys + 5) - full).max() > 0.01


@pytest.mark.parametrize('batch', [(), (B,), (1, B)])
def test_positions_have_the_axes_of_the_batch(batch):
  x, at = normal(RNG, *batch, T, D), ints(-9, 9, *batch, T)
  p = params(X)
  flat = apply(p, x.reshape(-1, T, D), positions=at.reshape(-1, T))
  close(apply(p, x, positions=at), flat.reshape(*batch, T, D))


def test_rows_packed_into_one():
  p, (a, b) = params(X), (4, T - 4)
  segments = np.repeat([1, 2], (a, b))[None]
  mask = attention.Mask(causal=True, q_segments=segments)
  at = np.concatenate([np.arange(a), np.arange(b)])[None]
  packed = apply(p, X, mask=mask, positions=at)
  close(packed[:, :a], apply(p, X[:, :a], mask=CAUSAL))
  close(packed[:, a:], apply(p, X[:, a:], mask=CAUSAL))


@functools.partial(jax.jit, static_argnames='method')
def step(tree, *args, **kwargs):
  return build(decode=True).apply(tree, *args, mutable=['cache'], **kwargs)


def decoder(p, *inputs):
  """A function that appends tokens to a cache that it keeps."""
  state = dict(cache=V.empty_cache(build(), *inputs))

  def run(*args, **kwargs):
    nonlocal state
    o, state = step(state | dict(params=p), *args, **kwargs)
    return o

  return run


@pytest.mark.parametrize('chunks', [(T,), (1,) * T, (4, 1, 1, 1, 4)])
def test_decoding_is_the_causal_pass(chunks):
  p = params(X)
  decode, ends = decoder(p, X), np.cumsum(chunks)
  parts = [decode(x) for x in np.split(X, ends[:-1], axis=1)]
  close(jnp.concatenate(parts, 1), apply(p, X, mask=CAUSAL))


def test_rows_of_unlike_lengths_decode_at_positions_of_their_own():
  p, lengths = params(X), np.array([3, 7])
  decode, full = decoder(p, X), apply(p, X, mask=CAUSAL)
  decode(X[:, :7], lengths=lengths)
  for i in range(3):
    at = (lengths + i)[:, None, None]
    want = np.take_along_axis(full, at, 1)
    close(decode(np.take_along_axis(X, at, 1)), want)


def test_given_positions_go_before_the_caches():
  """Two tokens of padding on the left: row 1 begins at place 2."""
  p, pad = params(X), np.array([0, 2])[:, None]
  x = np.stack([X[0], np.roll(X[1], 2, 0)])
  decode, at = decoder(p, X), np.arange(T)[None] - pad
  mask = attention.Mask(key_valid=at >= 0)
  o = [
    decode(x[:, i:j], mask=mask, positions=at[:, i:j])
    for i, j in ((0, 5), (5, 6), (6, T))
  ]
  o, full = jnp.concatenate(o, 1), apply(p, X, mask=CAUSAL)
  close(o[0], full[0])
  close(o[1, 2:], full[1, :-2])


def test_a_memory_is_at_0_1_and_so_on():
  p = params(X, Y)
  decode, full = decoder(p, X, Y), apply(p, X, Y)
  for _ in range(2):  # what was held before does not count
    decode(Y, method='prefill_memory')
    parts = [
      decode(X[:, i:j], positions=np.arange(i, j)[None])
      for i, j in ((0, 5), (5, 6), (6, T))
    ]
    close(jnp.concatenate(parts, 1), full)
