# SPDX-License-Identifier: Apache-2.0
"""What every variant promises, checked for every file in `variants/`."""

import functools
import operator

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention.variants import variant
from tests.attention import reference
from tests.attention import variants as V
from tests.attention.variants import D_OUT, B, D, S, T, close
from tests.few import few

every_shape = pytest.mark.parametrize('case', V.CASES)
# Each variant in one way, and one with a gate.
QUICK = (*V.NAMES, 'gla_gated')
every_case = few(V.CASES, QUICK)
few_cases = few(V.CASES, V.QUICK)
few_names = few(V.NAMES, V.QUICK)
VALID = np.arange(T)[None] >= np.array([[0], [2]])  # row 1, queries 0, 1: dead
PER_HEAD = np.random.default_rng(7).random((B, 6, T, S)) < 0.6
PER_HEAD[0, :, 3] = False  # a dead row in all heads
PER_HEAD[1, 1, 5] = False  # and in one head only


@functools.lru_cache
def value_and_gradient(case, setting):
  """(tree of params and inputs, w) -> output o, gradient of sum(o w)."""
  layer = V.build(case)
  mask = attention.Mask(causal=True, key_valid=VALID)
  if setting == 'memory':
    mask = PER_HEAD[:, : layer.num_heads]

  @jax.jit
  def run(tree, w):
    def loss(tree):
      params, *args = tree.values()
      o = layer.apply({'params': params}, *args, mask=mask)
      return (o * w).sum(), o

    grads, o = jax.grad(loss, has_aux=True)(tree)
    return o, grads

  return run


@functools.lru_cache
def causal(case):
  """apply(params, x) under a causal mask, compiled."""
  layer, mask = V.build(case), attention.Mask(causal=True)
  return jax.jit(lambda p, x: layer.apply({'params': p}, x, mask=mask))


def shape_of(f, *args, **kwargs):
  return jax.tree.map(lambda x: x.shape, jax.eval_shape(f, *args, **kwargs))


def test_every_variant_has_a_reference():
  assert {*reference.LAYERS, 'mqa'} == set(V.NAMES)


@every_shape
def test_shapes(case):
  layer = V.build(case, out_features=D_OUT)
  x, *memory = V.inputs(case)
  init = functools.partial(shape_of, layer.init_with_output)
  key = jax.random.key(0)
  assert init(key, x)[0] == (B, T, D_OUT)
  assert init(key, x, *memory)[0] == (B, T, D_OUT)
  assert init(key, x, memory[0])[0] == (B, T, D_OUT)
  assert init(key, x[0])[0] == (T, D_OUT)  # no batch
  assert init(key, x[None, None])[0] == (1, 1, B, T, D_OUT)
  assert init(key, x[None], *(m[None] for m in memory))[0] == (1, B, T, D_OUT)
  assert shape_of(V.build(case).init_with_output, key, x)[0] == x.shape


def weights_and_biases(case, layer, D):
  """Parameters of self-attention, but for the output projection's."""
  H, d = layer.num_heads, (layer.qkv_features or D) // layer.num_heads
  G, r, k, K, Cq, C, R = (
    getattr(layer, name, 0)
    for name in (
      'kv_heads', 'latent_dim', 'shared_dim', 'key_features', 'query_dim',
      'head_width', 'rank',
    )
  )  # fmt: skip
  K, C = K or H * d, C or d
  columns = sum(layer.value_dims or [H * d])
  if isinstance(layer, variant('collab')):
    content = layer.use_bias * D * H if layer.bias == 'content' else 0
    shared = 2 * k if layer.bias == 'shared' else 0
    return 2 * D * k + H * k + D * columns + content, columns + shared
  return dict(
    mha=(2 * D * K + D * H * d, 2 * K + H * d),
    gqa=(D * H * d + 2 * D * G * d, H * d + 2 * G * d),
    sha=(3 * D * d, 3 * d),
    skv=(D * H * d + D * (G or H) * d, H * d + (G or H) * d),
    el=(D * H * d, H * d),
    mhe_add=(3 * D * d + 3 * H * d, 3 * d),
    mhe_mul=(3 * D * d + 3 * H * d, 3 * d),
    mla=(D * H * d + D * r + 2 * r * H * d, H * d),
    gla=(D * H * d + D * r + 2 * r // (G or 1) * H * d, H * d),
    gta=(D * H * d + D * G * d + D * (d // 2), H * d + G * d + d // 2),
    mfa=(D * Cq + Cq * H * C + 2 * D * C, H * C + 2 * C),
    mfa_kr=(D * Cq + Cq * H * C + D * C + C * C + C, H * C + C),
    tpa=(D * H * d + 2 * D * R * (H + d), H * d + 2 * R * (H + d)),
  )[type(layer).__module__.rpartition('.')[2]]


@every_shape
@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize(
  'features', [{}, dict(out_features=D_OUT), dict(qkv_features=None)]
)
def test_count_is_the_closed_form(case, use_bias, features):
  layer = V.build(case, use_bias=use_bias, **features)
  D = V.width(case) if layer.qkv_features else layer.num_heads * 5
  H, Dout = layer.num_heads, layer.out_features or D
  d = (layer.qkv_features or D) // H
  weights, biases = weights_and_biases(case, layer, D)
  gates = dict(none=0, head=H, elementwise=H * d)[layer.gate]
  weights, biases = weights + D * gates, biases + gates
  d = getattr(layer, 'head_width', 0) or d
  columns = sum(layer.value_dims or [H * d])
  want = weights + columns * Dout + use_bias * (biases + Dout)
  assert layer.count(D) == want


@pytest.mark.parametrize('case', ['mha', 'gqa', 'sha', 'mha_narrow'])
def test_count_of_normalised_queries_and_keys(case):
  plain, norm = V.build(case), V.build(case, normalize_qk=True)
  width = 17 if case == 'mha_narrow' else V.d
  assert norm.count(D) == plain.count(D) + 2 * width


def test_costs_neither_need_dropout_keys_nor_a_free_layer():
  layer = V.build('mha', dropout_rate=0.5)
  bound = layer.bind({'params': V.params('mha')})
  assert bound.count(D) == V.build('mha').count(D)
  assert bound.cache_size(D) == V.build('mha').cache_size(D)


@every_shape
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_cache_holds_what_cache_size_says(case, dtype):
  layer, D = V.build(case, decode=True, dtype=dtype), V.width(case)
  x = jnp.zeros((B, T, D), dtype)
  cache = jax.eval_shape(layer.init, jax.random.key(0), x)['cache']['past']
  kept = jax.tree.leaves(cache.replace(index=None))
  itemsize = jnp.dtype(dtype).itemsize
  assert {x.dtype.itemsize for x in kept} == {itemsize}
  bytes_per_token = sum(x.size for x in kept) * itemsize / (B * T)
  assert bytes_per_token == layer.cache_size(D) * itemsize


# Against the formulas of the papers -------------------------------------------


@few(
  [(case, setting) for case in V.CASES for setting in ('self', 'memory')],
  [(case, 'self') for case in QUICK] + [(case, 'memory') for case in V.QUICK],
  'case, setting',
)
def test_equals_the_paper(case, setting):
  """Output and gradient; causal padded self-attention, masked memory."""
  args = dict(zip('xyz', V.inputs(case), strict=False))
  if setting == 'self':
    args = dict(x=args['x'])
    dense = np.tril(np.ones((T, T), bool)) & VALID[:, None, None]
  else:
    dense = PER_HEAD[:, : V.build(case).num_heads]
  w = V.normal(np.random.default_rng(2), B, T, V.width(case))

  def loss(tree):
    return (V.expected(case, *tree.values(), mask=dense) * w).sum()

  tree = dict(params=V.params(case, setting == 'memory'), **args)
  o, grads = value_and_gradient(case, setting)(tree, w)
  close(o, V.expected(case, *tree.values(), mask=dense))
  check_gradients(loss, tree, grads)


def check_gradients(loss, tree, grads):
  """Derivatives along random directions of each leaf alone, to 1e-5."""
  rng, total = np.random.default_rng(3), norm(grads)
  leaves, structure = jax.tree.flatten(tree)
  named = jax.tree_util.tree_leaves_with_path(grads)
  for i, (path, g) in enumerate(named):
    for _ in range(2):
      u = rng.normal(size=g.shape)
      along = [u if i == j else 0 * x for j, x in enumerate(leaves)]
      want = reference.directional(loss, tree, structure.unflatten(along))
      got = (np.asarray(g, 'float64') * u).sum()
      # u is standard normal: |g . u| is about |g|. Dead leaves round to 0.
      error, name = abs(got - want), jax.tree_util.keystr(path)
      assert error <= 1e-5 * norm(g) + 1e-7 * total, (name, got, want)


def norm(tree):
  return (
    sum((np.asarray(x, 'float64') ** 2).sum() for x in jax.tree.leaves(tree))
    ** 0.5
  )


# Who sees what ----------------------------------------------------------------


@every_case
def test_causal_by_gradient(case):
  """d out[t] / d in[s] is zero for s > t and nothing else."""
  tree = dict(params=V.params(case), x=V.inputs(case)[0])
  run, reached = value_and_gradient(case, 'self'), []
  w = V.normal(np.random.default_rng(2), B, T, V.width(case))
  for t in range(T):
    only = np.where(np.arange(T)[None, :, None] == t, w, 0)
    dx = np.asarray(run(tree, only)[1]['x'])[0]  # all keys of row 0 are valid
    reached.append(np.abs(dx).max(-1) > 0)
  np.testing.assert_array_equal(reached, np.tril(np.ones((T, T), bool)))


@every_case
def test_padding_changes_nothing(case):
  layer, params = V.build(case), V.params(case)
  x, n = V.inputs(case)[0], 9
  valid = np.broadcast_to(np.arange(T) < n, (B, T))

  @jax.jit
  def padded(x):
    mask = attention.Mask(key_valid=valid)
    return layer.apply({'params': params}, x, mask=mask)

  other = np.where(valid[:, :, None], x, 100 * x[:, ::-1])
  o = np.asarray(padded(x))[:, :n]
  np.testing.assert_array_equal(padded(other)[:, :n], o)
  close(o, V.expected(case, params, x[:, :n]))


# Decoding ---------------------------------------------------------------------


class Decoder:
  """A decoding layer under jit, its cache as state."""

  def __init__(self, case):
    layer, params = V.build(case, decode=True), V.params(case)
    self.empty = V.empty_cache(layer, V.inputs(case)[0])
    self.cache = self.empty

    @jax.jit
    def step(cache, x, lengths):
      variables = dict(params=params, cache=cache)
      o, new = layer.apply(variables, x, lengths=lengths, mutable=['cache'])
      return o, new['cache']

    self.step = step

  def __call__(self, x, lengths=None):
    lengths = np.full(B, x.shape[1]) if lengths is None else lengths
    o, self.cache = self.step(self.cache, x, np.asarray(lengths))
    return np.asarray(o)


decoder = functools.lru_cache(Decoder)


@every_case
@pytest.mark.parametrize('chunks', [(1,) * T, (9, 1, 1), (1, 9, 1)])
def test_decoding_is_the_causal_pass(case, chunks):
  x, decode = V.inputs(case)[0], decoder(case)
  decode.cache = decode.empty
  starts = np.cumsum([0, *chunks])
  o = [decode(x[:, i : i + n]) for i, n in zip(starts, chunks, strict=False)]
  close(np.concatenate(o, 1), causal(case)(V.params(case), x))
  assert decode.cache['past'].index.tolist() == [T] * B


@every_case
def test_rows_decode_at_their_own_pace_and_end(case):
  """Row 0 holds 5 tokens and row 1 holds 9: it overflows after two more."""
  x, decode = V.inputs(case)[0], decoder(case)
  full = np.asarray(causal(case)(V.params(case), x))
  decode.cache = decode.empty
  held = np.array([5, 9])
  o = decode(x[:, :9], held)
  close(o[0, :5], full[0, :5])
  close(o[1], full[1, :9])
  for i in range(T - 5):
    before = decode.cache['past']
    places = held + i
    token = x[[0, 1], places % T][:, None]
    o = decode(token)
    close(o[0, 0], full[0, places[0]])
    if places[1] < T:
      close(o[1, 0], full[1, places[1]])
    else:
      assert np.isnan(o[1]).all()
      after = decode.cache['past']
      for old, new in zip(
        jax.tree.leaves(before.replace(index=None)),
        jax.tree.leaves(after.replace(index=None)),
        strict=True,
      ):
        np.testing.assert_array_equal(old[1], new[1])
  assert decode.cache['past'].overflowed.tolist() == [False, True]


@few_cases
def test_cross_attention_decodes_from_its_memory(case):
  layer, params = V.build(case, decode=True), V.params(case, memory=True)
  x, *memory = V.inputs(case)
  cache = V.empty_cache(layer, x, *memory)
  lengths = np.array([3, S])

  @jax.jit
  def fill(cache, *memory):
    variables = dict(params=params, cache=cache)
    return layer.apply(
      variables,
      *memory,
      lengths=lengths,
      method='prefill_memory',
      mutable=['cache'],
    )[1]['cache']

  @jax.jit
  def decode(cache, x):
    return layer.apply(dict(params=params, cache=cache), x)

  seen = np.arange(S) < lengths[:, None, None, None]
  want = V.expected(case, params, x, *memory, mask=seen)
  # What the cache held before is forgotten.
  cache = fill(fill(cache, *(-m for m in memory)), *memory)
  close(decode(cache, x), want)
  close(decode(cache, x[:, 4:5]), want[:, 4:5])
  # A shorter memory in the same cache.
  short = fill(cache, *(m[:, :3] for m in memory))
  want = V.expected(case, params, x, *(m[:, :3] for m in memory))
  close(decode(short, x)[0], want[0])


# Transformations and number formats -------------------------------------------


@few_names
def test_bfloat16_is_near(case):
  layer, params = V.build(case, dtype=jnp.bfloat16), V.params(case)
  x = V.inputs(case)[0]
  mask = attention.Mask(causal=True)

  @jax.jit
  def run(p, x):
    o, vjp = jax.vjp(
      lambda *a: layer.apply({'params': a[0]}, a[1], mask=mask), p, x
    )
    return o, vjp(o)

  o, grads = run(params, x)
  assert o.dtype == jnp.bfloat16
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype('float32')}
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  dense = np.tril(np.ones((T, T), bool))
  close(o.astype('float32'), V.expected(case, params, x, mask=dense), rel=3e-2)


@few_names
def test_vmap_is_another_batch_axis(case):
  layer, params = V.build(case), V.params(case)
  x = np.stack([V.inputs(case, seed)[0] for seed in (1, 2, 3)])

  @jax.jit
  def run(x):
    return (
      jax.vmap(lambda x: layer.apply({'params': params}, x))(x),
      layer.apply({'params': params}, x),
    )

  mapped, batched = run(x)
  close(mapped, batched)
  close(mapped[2], V.expected(case, params, x[2]))


class Block(nn.Module):
  case: str

  def setup(self):
    self.attention = V.build(self.case)

  def __call__(self, x, _):
    return x + self.attention(x), None


@few_names
def test_scan_over_rematerialised_layers(case):
  model = nn.scan(
    nn.remat(Block, prevent_cse=False),
    variable_axes={'params': 0},
    split_rngs={'params': True},
    length=2,
  )(case)
  x = V.inputs(case)[0]
  layers = V.params(case), V.params(case, seed=5)
  params = {'attention': jax.tree.map(lambda *x: np.stack(x), *layers)}

  def expected(tree):
    x = tree['x']
    for i in range(2):
      p = jax.tree.map(operator.itemgetter(i), tree['params']['attention'])
      x = x + V.expected(case, p, x)
    return x

  @jax.jit
  def run(tree):
    def loss(tree):
      o, _ = model.apply({'params': tree['params']}, tree['x'], None)
      return (o**2).sum(), o

    return jax.grad(loss, has_aux=True)(tree)

  tree = dict(params=params, x=x)
  grads, o = run(tree)
  close(o, expected(tree))
  check_gradients(lambda tree: (expected(tree) ** 2).sum(), tree, grads)
