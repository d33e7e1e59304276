# SPDX-License-Identifier: Apache-2.0
"""Every variant under rotary positions: its formula, its cache, its algebra."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import choice, rope
from collab.attention.rope import Rope
from collab.attention.target import Target
from collab.attention.variants import variant
from tests.attention import reference, rotary_reference
from tests.attention.variants import close, drawn, empty_cache
from tests.few import few

B, H, S, T, d, D, D_MEMORY, D_VALUES = 2, 3, 7, 11, 14, 19, 31, 37
CAUSAL = attention.Mask(causal=True)
COUNT = np.arange(T)[None].repeat(B, 0)
HALF = dict(fraction=3 / 7)
GTA = dict(fraction=4 / 7)  # of the 7 dimensions that rotate
WIDE = dict(qkv_features=None)
# id -> (name, fields, scalars that the cache keeps a token).
CASES = {
  'mha': ('mha', dict(), 2 * H * d),
  'mha_half': ('mha', dict(rope=HALF), 2 * H * d),
  'mha_norm': ('mha', dict(qk_norm=True), 2 * H * d),
  'gqa': ('gqa', dict(num_heads=6, kv_heads=3, qk_norm=True), 2 * 3 * d),
  'mqa': ('gqa', dict(kv_heads=1), 2 * d),
  'sha': ('sha', dict(qk_norm=True), 2 * d),
  'skv': ('skv', dict(), H * d),
  'skv_norm': ('skv', dict(qk_norm=True), H * d),
  'el': ('el', dict(qk_norm=True), H * d),
  'collab': ('collab', dict(shared_dim=24, qk_norm=True), 24 + H * d),
  'collab_one': ('collab', dict(shared_dim=22, bias='shared'), 22 + H * d),
  'collab_half': ('collab', dict(shared_dim=42, rope=HALF), 42 + H * d),
  'collab_complex': (
    'collab',
    dict(shared_dim=24, mixing='complex', bias='none'),
    24 + H * d,
  ),
  'mhe_mul': ('mhe_mul', dict(), 2 * d),
  'mhe_mul_half': ('mhe_mul', dict(rope=HALF, qk_norm=True), 2 * d),
  'mhe_mul_fold': ('mhe_mul', dict(fold=True), 2 * d),
  'mhe_add': ('mhe_add', dict(qk_norm=True), 2 * d),
  'mhe_add_half': ('mhe_add', dict(rope=HALF), 2 * d + H),
  'mla': ('mla', dict(latent_dim=5, rope_dim=6, qk_norm=True), 5 + 6),
  'mla_wide': ('mla', dict(latent_dim=17, rope_dim=2), 17 + 2),
  'mla_planes': (
    'mla',
    dict(latent_dim=5, rope_dim=6, planes=(3, 0, 3)),
    5 + 6,
  ),
  'mla_whole': ('mla', dict(latent_dim=17, decoupled=False), 17),
  'gla': (
    'gla',
    dict(num_heads=6, latent_dim=15, kv_heads=3, rope_dim=6, qk_norm=True),
    15 + 6,
  ),
  'gla_wide': ('gla', dict(num_heads=6, latent_dim=34, rope_dim=2), 34 + 2),
  'gta': ('gta', dict(num_heads=6, kv_heads=3, rope=GTA), 3 * d + d // 2),
  'gta_norm': ('gta', dict(kv_heads=1, qk_norm=True, rope=GTA), d + d // 2),
  'mfa': ('mfa', dict(query_dim=5), 2 * d),
  'mfa_wide': (
    'mfa',
    dict(query_dim=5, head_width=22, qk_norm=True, **WIDE),
    44,
  ),
  'mfa_kr': ('mfa_kr', dict(query_dim=5, head_width=22, **WIDE), 22),
  'mfa_kr_norm': ('mfa_kr', dict(query_dim=5, qk_norm=True), d),
  'tpa': ('tpa', dict(qk_norm=True), 2 * 2 * (H + d)),
  'tpa_half': ('tpa', dict(rank=3, rope=HALF), 2 * 3 * (H + d)),
  'skv_groups': ('skv', dict(num_heads=6, kv_heads=2), 2 * d),
  'gqa_gated': ('gqa', dict(kv_heads=1, gate='elementwise'), 2 * d),
}
every_case = pytest.mark.parametrize('case', CASES)
# Each caches, or rotates, something else.
FEW = ('collab', 'mhe_add_half', 'mla', 'gta')
KINDS = ('mha_half', 'mhe_mul', 'tpa', 'skv_groups', 'mfa_kr') + FEW
KINDS += ('mla_whole',)
every_kind, few_kinds = few(CASES, KINDS), few(CASES, FEW)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def build(case, **more):
  name, own, _ = CASES[case]
  base = dict(rope={}, bias_init=nn.initializers.normal(0.5))
  base |= dict(num_heads=H, qkv_features=own.get('num_heads', H) * d)
  return attention.build(name, **base | own | more)


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def inputs(case):
  """x [B, T, D], y [B, S, D'] and, if there are values, z [B, S, D'']."""
  el = case == 'el'
  x = normal(1, B, T, H * d if el else D)
  y = normal(2, B, S, H * d if el else D_MEMORY)
  separate = build(case).separate_values
  return (x, y, normal(3, B, S, D_VALUES)) if separate else (x, y)


@functools.cache
def params(case, memory=False):
  given = inputs(case) if memory else inputs(case)[:1]
  return drawn(build(case), *given)


def expected(case, p, x, y=None, z=None, *, mask=None, at=None, key_at=None):
  name, own, _ = CASES[case]
  own = dict(num_heads=H) | own
  own |= own.pop('rope', {})
  for unused in ('bias', 'latent_dim', 'rope_dim', 'query_dim', 'rank'):
    own.pop(unused, None)
  for unused in ('head_width', 'qkv_features'):
    own.pop(unused, None)
  if k := own.pop('shared_dim', None):
    own['bands'] = 1 if k % H else H
  count = lambda x: np.arange(x.shape[1])[None]
  if y is None:
    y, key_at = x, at
  z = y if z is None else z
  at, key_at = (
    count(x) if given is None else given for x, given in ((x, at), (y, key_at))
  )
  return rotary_reference.layer(name, p, x, y, z, mask, at, key_at, **own)


def exact(got, want):
  close(got, want, rel=1e-11)


def positions(seed, n):
  return np.random.default_rng(seed).integers(-40, 40, (B, n))


# The formulas -----------------------------------------------------------------


@functools.cache
def value_and_gradient(case, memory):
  """(p, x, w, *memory, **positions) -> output o, gradients of sum(o w)."""
  layer, mask = build(case), None if memory else CAUSAL

  @jax.jit
  def run(p, x, w, *memory, **how):
    def loss(p, x):
      o = layer.apply({'params': p}, x, *memory, mask=mask, **how)
      return (o * w).sum(), o

    grads, o = jax.grad(loss, (0, 1), has_aux=True)(p, x)
    return o, grads

  return run


def forward(case, x, *memory, at=COUNT, **how):
  """The output alone, by the same program: there are as few as can be."""
  run, p = value_and_gradient(case, bool(memory)), params(case, bool(memory))
  return np.asarray(run(p, x, 0 * x, *memory, positions=at, **how)[0])


@few(
  [(case, setting) for case in CASES for setting in ('self', 'memory')],
  [(case, 'self') for case in KINDS] + [(case, 'memory') for case in FEW],
  'case, setting',
)
def test_equals_the_formula(case, setting):
  """Output, and its gradient in the parameters and the input."""
  memory = setting == 'memory'
  run, p = value_and_gradient(case, memory), params(case, memory)
  x, *rest = inputs(case) if memory else inputs(case)[:1]
  at, key_at = positions(5, T), positions(6, S)
  if memory:
    how, know = dict(key_positions=key_at), dict(at=at, key_at=key_at)
    dense = None
  else:
    how, know = {}, dict(at=at)
    dense = np.tril(np.ones((T, T), bool))
  w = normal(7, B, T, x.shape[-1])

  def literal(tree):
    o = expected(case, tree['p'], tree['x'], *rest, mask=dense, **know)
    return (o * w).sum()

  o, (dp, dx) = run(p, x, w, *rest, positions=at, **how)
  exact(o, expected(case, p, x, *rest, mask=dense, **know))
  tree = dict(p=jax.tree.map(np.asarray, p), x=x)
  u = jax.tree.map(lambda x: normal(8, *x.shape), tree)
  got = sum(
    (np.asarray(a) * b).sum()
    for a, b in zip(*map(jax.tree.leaves, (dict(p=dp, x=dx), u)), strict=True)
  )
  np.testing.assert_allclose(
    got, reference.directional(literal, tree, u), rtol=1e-9
  )


@few_kinds
def test_a_shift_of_all_positions_changes_nothing(case):
  at, key_at = positions(5, T), positions(6, S)
  run = lambda at, key_at: forward(
    case, *inputs(case), at=at, key_positions=key_at
  )
  o = run(at, key_at)
  exact(run(at + 1000, key_at + 1000), o)
  assert np.abs(run(at + 1, key_at) - o).max() > 1e-4


@every_kind
def test_causal_by_gradient(case):
  run, p, x = value_and_gradient(case, False), params(case), inputs(case)[0]
  reached = []
  for t in range(T):
    w = np.zeros(x.shape)
    w[0, t] = 1
    dx = np.asarray(run(p, x, w, positions=COUNT)[1][1])[0]
    reached.append(np.abs(dx).max(-1) > 0)
  np.testing.assert_array_equal(reached, np.tril(np.ones((T, T), bool)))


def test_every_variant_that_there_is_rotates():
  known = {name for name, *_ in CASES.values()}
  assert known == {*attention.names()} - {'mqa', 'linformer'}
  assert all({'rope', 'qk_norm'} <= {*variant(name).takes} for name in known)


def run(case, p, x, mask=CAUSAL, positions=None, **more):
  """The layer on x, as one program."""
  how = dict(mask=mask, positions=positions)
  apply = functools.partial(build(case, **more).apply, **how)
  return jax.jit(apply)({'params': p}, x)


# Decoding ---------------------------------------------------------------------


@functools.cache
def step(case, memory=False):
  """(cache, *args) -> output and the next cache, under jit."""
  layer, p = build(case, decode=True), params(case, memory)

  @functools.partial(jax.jit, static_argnames='method')
  def run(state, *args, **kwargs):
    tree = dict(params=p, cache=state)
    o, new = layer.apply(tree, *args, mutable=['cache'], **kwargs)
    return o, new['cache']

  return run


def decoder(case, *given):
  """Appends tokens to a cache that it keeps; with init, that of `given`."""
  state = empty_cache(build(case), *(given or inputs(case)[:1]))

  def run(*args, **kwargs):
    nonlocal state
    o, state = step(case, len(given) > 1)(state, *args, **kwargs)
    return o

  return run


@functools.cache
def full(case):
  return forward(case, inputs(case)[0])


@every_kind
@pytest.mark.parametrize('chunks', [(1,) * T, (4, 1, 1, 1, 4)])
def test_decoding_is_the_causal_pass(case, chunks):
  decode, ends = decoder(case), np.cumsum(chunks)
  parts = [decode(x) for x in np.split(inputs(case)[0], ends[:-1], axis=1)]
  exact(np.concatenate(parts, 1), full(case))


@every_kind
def test_ragged_rows_decode_at_positions_of_their_own(case):
  lengths, x = np.array([3, 7]), inputs(case)[0]
  decode = decoder(case)
  o = decode(x[:, :7], lengths=lengths)
  exact(o[0, :3], full(case)[0, :3])
  exact(o[1], full(case)[1, :7])
  for i in range(3):
    at = (lengths + i)[:, None, None]
    want = np.take_along_axis(full(case), at, 1)
    exact(decode(np.take_along_axis(x, at, 1)), want)


@few_kinds
def test_packed_documents_decode_as_they_are_computed(case):
  """Two documents in a row, whose positions start anew, token by token."""
  x, n = inputs(case)[0], 4
  segments = np.repeat([[1, 2]], [n, T - n], 1)
  at = np.concatenate([np.arange(n), np.arange(T - n)])[None]
  mask = attention.Mask(causal=True, q_segments=segments)

  packed = run(case, params(case), x, mask=mask, positions=at)
  exact(packed[:, :n], full(case)[:, :n])
  exact(packed[:, n:], forward(case, np.roll(x, -n, 1))[:, : T - n])
  decode, parts = decoder(case), []
  for i, j in ((0, 3), (3, 6), (6, 7), (7, 8), (8, T)):
    mask = attention.Mask(q_segments=segments[:, i:j], kv_segments=segments)
    parts.append(decode(x[:, i:j], mask=mask, positions=at[:, i:j]))
  exact(np.concatenate(parts, 1), packed)


@few_kinds
def test_a_memory_keeps_its_positions(case):
  x, *memory = inputs(case)
  at, key_at = positions(5, T), positions(6, S)
  decode = decoder(case, x, *memory)
  decode(*memory, method='prefill_memory', key_positions=key_at)
  want = forward(case, x, *memory, at=at, key_positions=key_at)
  exact(decode(x, positions=at), want)
  exact(decode(x[:, 4:5], positions=at[:, 4:5]), want[:, 4:5])


@every_case
def test_the_cache_is_as_small_as_it_says(case):
  layer, x = build(case), inputs(case)[0]
  cache = empty_cache(layer, x)['past']
  size = sum(x.size for x in jax.tree.leaves(cache.kept)) / (B * T)
  assert size == layer.cache_size(x.shape[-1]) == CASES[case][2]
  # Positions are kept where keys rotate on reading, and nowhere else.
  reads = {'skv', 'skv_norm', 'el', 'mhe_mul', 'mhe_mul_half', 'mhe_add'}
  reads |= {'skv_groups', 'mfa_kr', 'mfa_kr_norm', 'mla_whole'}
  assert (cache.positions is not None) == (case in reads)


# The algebra ------------------------------------------------------------------


def gradient(case, **more):
  layer, x = build(case, **more), inputs(case)[0]
  w = normal(7, *x.shape)
  f = lambda p: (layer.apply({'params': p}, x, mask=CAUSAL) * w).sum()
  return jax.jit(jax.grad(f))(drawn(layer, x))


@few(['mha', 'gqa', 'mqa', 'sha', 'collab_one'], ['gqa', 'collab_one'])
def test_biases_of_keys_are_not_dead(case):
  own = dict(qk_norm=False)
  with_rope = np.abs(gradient(case, **own)['key']['bias']).max()
  without = np.abs(gradient(case, rope=None, **own)['key']['bias']).max()
  assert without < 1e-14 < 1e-5 < with_rope


def planes(x):
  a, b = np.split(np.asarray(x), 2, -1)
  return a + 1j * b


def turned(x, at):
  """R_at x for one vector x [K]."""
  x, at = jnp.asarray(x)[None, None, None], jnp.asarray([[at]])
  return np.asarray(Rope().rotate(x, at))[0, 0, 0]


def product(x, m):
  return np.asarray(rope.multiply(jnp.asarray(x), jnp.asarray(m)))


Q, K, M = normal(9, 3, d)  # a query, a key and a row of mixing
EVEN = np.tile(M[: d // 2], 2)  # a row that is equal within each plane


def test_mixing_before_rotation_differs_between_query_and_key():
  mixed = lambda m: turned(m * Q, 5) @ turned(K, 2)
  keys = lambda m: turned(Q, 5) @ turned(m * K, 2)
  assert abs(mixed(M) - keys(M)) > 0.1
  np.testing.assert_allclose(mixed(EVEN), keys(EVEN), atol=1e-13)


def test_complex_mixing_commutes_with_rotation():
  """On the key's side it is the conjugate."""
  conjugate = np.asarray(rope.conjugate(jnp.asarray(M)))
  np.testing.assert_allclose(
    turned(product(Q, M), 5), product(turned(Q, 5), M), atol=1e-13
  )
  np.testing.assert_allclose(
    turned(product(Q, M), 5) @ turned(K, 2),
    turned(Q, 5) @ turned(product(K, conjugate), 2),
    atol=1e-13,
  )


def test_mixing_after_rotation_depends_on_absolute_positions():
  after = lambda t, s: (M * turned(Q, t)) @ turned(K, s)
  before = lambda t, s: turned(M * Q, t) @ turned(K, s)
  np.testing.assert_allclose(before(5, 2), before(9, 6), atol=1e-13)
  assert abs(after(5, 2) - after(9, 6)) > 0.1


@pytest.mark.parametrize('mixing', ['real', 'complex'])
def test_concatenated_heads_are_mha_if_each_has_the_whole_spectrum(mixing):
  """k = H d and the layer's own initial blocks."""
  x, p = inputs('mha')[0], params('mha')
  fields = dict(num_heads=H, qkv_features=H * d, shared_dim=H * d, rope={})
  fields |= dict(bias='shared', mixing_init='concatenate', mixing=mixing)

  def collab(**more):
    layer = attention.build('collab', **fields | more)
    start = layer.init(jax.random.key(0), x)['params']
    flat = {n: jax.tree.map(np.asarray, p[n]) for n in ('query', 'key')}
    for part in flat.values():
      part['kernel'] = part['kernel'].reshape(D, H * d)
      part['bias'] = part['bias'].reshape(H * d)
    tree = start | flat | {n: p[n] for n in ('value', 'out')}
    return layer.apply({'params': tree}, x, mask=CAUSAL)

  exact(collab(), full('mha'))
  exact(collab(spectrum='head'), full('mha'))
  assert np.abs(collab(spectrum='shared') - full('mha')).max() > 1e-2


def test_complex_mixing_has_as_many_parameters():
  fields = dict(num_heads=H, qkv_features=H * d, shared_dim=24, rope={})
  counts = {
    attention.build('collab', mixing=mixing, **fields).count(D)
    for mixing in ('real', 'complex')
  }
  assert len(counts) == 1


def test_the_content_bias_is_the_queries_under_rope():
  p = params('collab')
  assert 'content_bias' not in p
  assert p['query_bias'].shape == (H, 24)
  none = {n: x for n, x in p.items() if n != 'query_bias'}
  x = inputs('collab')[0]
  zero = p | dict(query_bias=np.zeros((H, 24)))
  exact(run('collab', none, x, bias='none'), run('collab', zero, x))


def heads_of(case):
  """What the kernels of the variant get."""
  got = []

  def spy(method, args, kwargs, context):
    out = method(*args, **kwargs)
    if context.method_name == 'read':
      got.append(out)
    return out

  tree = {'params': params(case)}
  with nn.intercept_methods(spy):
    build(case).apply(tree, inputs(case)[0], mask=CAUSAL)
  return got[0]


def test_mhe_mul_folds_only_what_is_equal_within_planes():
  x, p = inputs('mhe_mul')[0], params('mhe_mul')
  even = p | dict(key_embedding=np.tile(p['key_embedding'][:, : d // 2], 2))
  exact(run('mhe_mul', even, x), run('mhe_mul_fold', even, x))
  apart = run('mhe_mul', p, x) - run('mhe_mul_fold', p, x)
  assert np.abs(apart).max() > 1e-2


def test_mhe_mul_keeps_one_key_and_doubles_the_scores():
  a, b = (
    (planes(M).real + planes(M).imag) / 2,
    (planes(M).real - planes(M).imag) / 2,
  )
  bar = np.asarray(rope.conjugate(jnp.asarray(K)))
  np.testing.assert_allclose(
    planes(turned(M * K, 6)),
    a * planes(turned(K, 6)) + b * planes(turned(bar, 6)),
    atol=1e-13,
  )
  again = turned(turned(K, 6), -12)
  np.testing.assert_allclose(
    planes(turned(bar, 6)), planes(again).conj(), atol=1e-13
  )
  widths = {c: heads_of(c).k.shape for c in CASES if c.startswith('mhe_mul')}
  assert widths == dict(
    mhe_mul=(B, T, 1, 2 * d),
    mhe_mul_half=(B, T, 1, d + 6),
    mhe_mul_fold=(B, T, 1, d),
  )


def test_mhe_add_has_four_terms_of_which_the_last_is_toeplitz():
  eq, ek, t, s = M, EVEN[::-1], 6, 2
  terms = [(q, k) for q in (Q, eq) for k in (K, ek)]
  total = sum(q @ turned(k, s - t) for q, k in terms)
  np.testing.assert_allclose(
    turned(Q + eq, t) @ turned(K + ek, s), total, atol=1e-13
  )
  query = product(turned(Q + eq, t), rope.conjugate(jnp.asarray(ek)))
  bias = (planes(query).conj() * planes(turned([1.0] * 7 + [0.0] * 7, s))).sum()
  np.testing.assert_allclose(
    bias.real, turned(Q + eq, t) @ turned(ek, s), atol=1e-13
  )
  last = np.array(
    [[turned(eq, t) @ turned(ek, s) for s in range(5)] for t in range(5)]
  )
  np.testing.assert_allclose(last[1:, 1:], last[:-1, :-1], atol=1e-13)
  assert np.ptp(last[0]) > 0.1


def test_adding_after_rotation_depends_on_absolute_positions():
  after = lambda t, s: (turned(Q, t) + M) @ (turned(K, s) + EVEN)
  assert abs(after(5, 2) - after(9, 6)) > 0.1


def test_mhe_adds_key_embedding_acts_where_it_rotates():
  assert np.abs(gradient('mhe_add')['key_embedding']).max() > 1e-6
  half = gradient('mhe_add_half')
  assert half['key_embedding'].shape == (H, d - 6)
  assert (half['key_embedding'] == 0).all()
  assert np.abs(half['query_embedding']).max() > 1e-6
  without = gradient('mhe_add', rope=None)
  assert (without['key_embedding'] == 0).all()


def test_mhe_add_keeps_one_matrix_of_scores_only_under_partial_rotation():
  def kernel(case):
    h = heads_of(case)
    call = choice.Call(*h[:4], None, H, 0.0)
    return choice.choose(call, Target('cpu'))

  assert kernel('mhe_add_half') == 'shared'
  assert kernel('mhe_add') == 'blocks'
  assert heads_of('mhe_add').k.shape == (B, T, 1, 2 * d)


def test_absorption_breaks_under_full_rotation():
  """The absorbed query would depend on the position of the key."""
  up = normal(10, 5, d)  # k = c up
  absorbed = lambda s: np.stack([turned(row, s) for row in up]) @ turned(Q, 6)
  assert np.abs(absorbed(2) - absorbed(3)).max() > 0.1
  c = normal(11, 5)
  np.testing.assert_allclose(
    turned(c @ up, 2) @ turned(Q, 6), c @ absorbed(2), atol=1e-13
  )


def test_mla_reads_its_values_from_the_window_of_its_key():
  h = heads_of('mla')
  assert h.k.shape == (B, T, 1, 5 + 6)
  np.testing.assert_array_equal(h.v, h.k[..., :5])


@pytest.mark.parametrize(
  'case, width',
  [('mha_norm', d), ('gqa', d), ('sha', d), ('collab', 24), ('mhe_add', d)],
)
def test_qk_norm_is_before_mixing_and_of_the_whole_width(case, width):
  p = params(case)
  shapes = {n: p[f'{n}_norm']['scale'].shape for n in ('query', 'key')}
  assert shapes == dict(query=(width,), key=(width,))


@pytest.mark.parametrize(
  'case, more, words',
  [
    ('mla', dict(rope_dim=0), 'rope_dim=0 with rope=Rope'),
    ('mla', dict(rope=None), 'rope_dim=6 with rope=None'),
    ('mla', dict(rope_dim=-2), 'rope_dim=-2'),
    ('mla', dict(rope_dim=3), 'a width of 3 is 3, expected an even number'),
    ('mha', dict(qkv_features=3 * 13), 'a width of 13 is 13'),
    ('collab', dict(shared_dim=21), '3 spectra of odd width 7'),
    ('collab', dict(shared_dim=22, spectrum='head'), 'does not divide shared'),
    ('collab', dict(spectrum='all'), "'all' is none of None, head, shared"),
    ('collab', dict(mixing='matrix'), "'matrix' is none of real, complex"),
    (
      'collab',
      dict(shared_dim=21, mixing='complex'),
      '3 spectra of odd width 7',
    ),
    (
      'collab',
      dict(rope=dict(fraction=0.5), mixing='complex'),
      'rope with fraction=1',
    ),
  ],
)
def test_what_cannot_rotate(case, more, words):
  layer = build(case, **more)
  with pytest.raises(ValueError, match=words):
    layer.init(jax.random.key(0), inputs(case)[0])
