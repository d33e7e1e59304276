# SPDX-License-Identifier: Apache-2.0
"""Caches beyond what every variant promises: beams, masks, nesting."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from tests.attention import variants as V
from tests.attention.variants import B, S, T, close, normal
from tests.few import few

# Caches of every kind: two, one and three arrays.
KINDS = ['mha', 'mla', 'mhe_add']
every_kind = few(KINDS, ['mla', 'mhe_add'])


@functools.lru_cache
def step(case):
  layer = V.build(case, decode=True)

  @jax.jit
  def run(cache, x, lengths=None, mask=None):
    tree = dict(params=V.params(case), cache=cache)
    kwargs = dict(lengths=lengths, mask=mask, mutable=['cache'])
    o, new = layer.apply(tree, x, **kwargs)
    return o, new['cache']

  return run


def empty(case, *inputs):
  return V.empty_cache(V.build(case), *(inputs or V.inputs(case)[:1]))


@every_kind
def test_init_makes_an_empty_cache(case):
  init = jax.jit(V.build(case, decode=True).init)
  got = init(jax.random.key(0), V.inputs(case)[0])['cache']
  jax.tree.map(np.testing.assert_array_equal, got, empty(case))


@every_kind
def test_beams_continue_the_rows_they_are_taken_from(case):
  """Ragged rows, one dropped, another taken twice, and more of them."""
  x = normal(np.random.default_rng(0), 3, T, V.width(case))
  rows = np.array([2, 0, 2, 2])
  cache = empty(case, x)
  _, cache = step(case)(cache, x[:, :9], np.array([4, 9, 7]))
  taken = attention.cache_take(cache, rows)
  assert taken['past'].index.tolist() == [7, 4, 7, 7]
  token = normal(np.random.default_rng(1), 4, 1, V.width(case))
  o, _ = step(case)(taken, token)
  for i, (row, held) in enumerate(zip(rows, (7, 4, 7, 7), strict=True)):
    whole = np.concatenate([x[row, :held], token[i]])[None]
    mask = np.tril(np.ones((held + 1, held + 1), bool))
    close(o[i, 0], V.expected(case, V.params(case), whole, mask=mask)[0, -1])


def test_beams_under_jit_of_a_whole_tree():
  caches = {'layer_0': empty('mha'), 'layer_1': empty('mhe_add')}
  caches = jax.tree.map(
    lambda x: (
      x + jnp.arange(B).reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
    ),
    caches,
  )
  taken = jax.jit(attention.cache_take)(caches, np.array([1, 1, 0]))
  for old, new in zip(*map(jax.tree.leaves, (caches, taken)), strict=True):
    np.testing.assert_array_equal(new, np.asarray(old)[[1, 1, 0]])


@every_kind
def test_padding_of_a_prefill_is_written_over(case):
  """What stood beyond `lengths` leaves no trace, whatever it was."""
  x = V.inputs(case)[0]
  lengths = np.array([3, 5])
  other = np.where(np.arange(9)[None, :, None] < 5, x[:, :9], 100.0)
  other[0, 3:] = -100
  outs = []
  for prompt in (x[:, :9], other.astype('float32')):
    _, cache = step(case)(empty(case), prompt, lengths)
    o, cache = step(case)(cache, x[:, 9:10])
    outs.append(o)
    assert cache['past'].index.tolist() == [4, 6]
  np.testing.assert_array_equal(*outs)


@every_kind
def test_a_prefill_that_does_not_fit_spoils_its_rows_alone(case):
  x = V.inputs(case)[0]
  _, cache = step(case)(empty(case), x[:, :9], np.array([1, 9]))
  before = jax.tree.map(np.asarray, cache['past'])
  o, cache = step(case)(cache, x[:, :9])
  assert np.isnan(o[1]).all()
  assert np.isfinite(o[0]).all()
  after = cache['past']
  assert after.overflowed.tolist() == [False, True]
  for old, new in zip(
    *(jax.tree.leaves(c.replace(index=None)) for c in (before, after)),
    strict=True,
  ):
    np.testing.assert_array_equal(new[1, :, :9], old[1, :, :9])
  # A row stays spoilt, and says so, until its cache is made anew.
  o, _ = step(case)(cache, x[:, :1], np.array([1, 0]))
  assert np.isnan(o[1]).all()
  assert np.isfinite(o[0]).all()


@every_kind
def test_masks_restrict_what_is_decoded(case):
  """Left padding: the first two places of row 1 are nobody's business."""
  x, params = V.inputs(case)[0], V.params(case)
  valid = np.arange(T)[None] >= np.array([[0], [2]])
  mask = attention.Mask(key_valid=valid)
  o, cache = step(case)(empty(case), x[:, :9], mask=mask)
  dense = np.tril(np.ones((T, T), bool)) & valid[:, None, None]
  want = V.expected(case, params, x, mask=dense)
  close(o, want[:, :9])
  array = valid[:, None, None]
  o, _ = step(case)(cache, x[:, 9:10], mask=array)
  close(o, want[:, 9:10])


@pytest.mark.parametrize('batch', [(), (1, B)])
def test_decoding_with_other_batch_axes(batch):
  """`lengths` has the axes of the batch, whatever they are."""
  layer = V.build('mha', decode=True)
  x = normal(np.random.default_rng(0), *batch, T, V.D)
  tree = {'params': V.params('mha')}
  cache = V.empty_cache(layer, x)
  lengths = np.full(batch, 4)
  mask = attention.Mask(causal=True)
  full = jax.jit(functools.partial(V.build('mha').apply, mask=mask))(tree, x)
  run = jax.jit(functools.partial(layer.apply, mutable=['cache']))
  o, new = run(tree | dict(cache=cache), x[..., :6, :], lengths=lengths)
  close(o[..., :4, :], full[..., :4, :])
  o, new = run(tree | new, x[..., 4:5, :])
  close(o, full[..., 4:5, :])


def prefill(layer):
  how = dict(method='prefill_memory', mutable=['cache'])
  return jax.jit(functools.partial(layer.apply, **how))


@pytest.mark.parametrize('batch', [(), (1, B)])
def test_memories_with_other_batch_axes(batch):
  layer, tree = V.build('mha', decode=True), {'params': V.params('mha', True)}
  rng = np.random.default_rng(0)
  x = normal(rng, *batch, T, V.D)
  y, z = normal(rng, *batch, S, V.D_MEMORY), normal(rng, *batch, S, V.D_VALUES)
  cache = V.empty_cache(layer, x, y, z)
  _, cache = prefill(layer)(
    tree | dict(cache=cache),
    y,
    z,
    lengths=np.full(batch, 3),
  )
  apply = jax.jit(V.build('mha').apply)
  want = apply(tree, x, y[..., :3, :], z[..., :3, :])
  close(jax.jit(layer.apply)(tree | cache, x), want)


@every_kind
def test_an_empty_memory_gives_nothing(case):
  layer, tree = V.build(case, decode=True), {'params': V.params(case, True)}
  x, *memory = V.inputs(case)
  cache = V.empty_cache(layer, x, *memory)
  _, cache = prefill(layer)(
    tree | dict(cache=cache),
    *memory,
    lengths=np.array([0, S]),
  )
  o = np.asarray(jax.jit(layer.apply)(tree | cache, x))
  bias = tree['params']['out']['bias']
  np.testing.assert_array_equal(o[0], np.broadcast_to(bias, o[0].shape))
  close(o[1], V.expected(case, tree['params'], x, *memory)[1])


class Layers(nn.Module):
  """Two layers scanned, in whose cache every array has a leading axis."""

  case: str
  decode: bool = False

  @nn.compact
  def __call__(self, x):
    axes = {'params': 0, 'cache': 0}
    scan = nn.scan(
      Layer, variable_axes=axes, split_rngs={'params': True}, length=2
    )
    return scan(self.case, self.decode, name='layer')(x)[0]


class Layer(nn.Module):
  case: str
  decode: bool

  def setup(self):
    self.attention = V.build(self.case, decode=self.decode)

  def __call__(self, x):
    mask = None if self.decode else attention.Mask(causal=True)
    return x + self.attention(x, mask=mask), None


@few(KINDS, ['mhe_add'])
def test_scanned_layers_decode(case):
  x = V.inputs(case)[0]
  full, decoding = Layers(case), Layers(case, decode=True)
  variables = jax.jit(decoding.init)(jax.random.key(0), x)
  params = {'params': variables['params']}
  want = jax.jit(full.apply)(params, x)
  run = jax.jit(functools.partial(decoding.apply, mutable=['cache']))
  cache, o = {'cache': variables['cache']}, []
  for start, stop in ((0, 9), (9, 10), (10, 11)):
    out, cache = run(params | cache, x[:, start:stop])
    o.append(out)
  close(np.concatenate(o, 1), want)


def test_prefill_of_a_cache_under_vmap():
  """An ensemble: parameters and caches with one more axis."""
  case = 'mhe_add'
  layer, x = V.build(case, decode=True), V.inputs(case)[0]
  trees = [V.params(case), V.params(case, seed=1)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *trees)
  cache = jax.tree.map(lambda x: jnp.stack([x, x]), empty(case))

  @jax.jit
  @jax.vmap
  def run(params, cache):
    tree = dict(params=params, cache=cache)
    return layer.apply(tree, x, mutable=['cache'])[0]

  dense = np.tril(np.ones((T, T), bool))
  for got, params in zip(run(stacked, cache), trees, strict=True):
    close(got, V.expected(case, params, x, mask=dense))


@every_kind
@pytest.mark.parametrize('wrong', [-1, 4])
def test_lengths_that_cannot_be_make_their_row_nan(case, wrong):
  """More than there are tokens, or fewer than none; other rows are right."""
  x = normal(np.random.default_rng(0), 2, 4, V.width(case))
  cache = empty(case, x)
  good, _ = step(case)(cache, x[:, :3], np.array([2, 3]))
  o, _ = step(case)(cache, x[:, :3], np.array([2, wrong]))
  np.testing.assert_array_equal(o[0], good[0])
  assert np.isnan(o[1]).all()
