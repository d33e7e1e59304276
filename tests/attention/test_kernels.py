# SPDX-License-Identifier: Apache-2.0
"""Every kernel is the float64 formula, forward and backward, at its limits."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.attention import blocks, kernels, masks
from collab.attention import shared as shared_scores
from tests.attention import reference
from tests.attention.test_masks import literal
from tests.attention.variants import close, normal
from tests.few import few

B, H, T, S, K, V = 2, 3, 11, 7, 5, 13
ARGUMENTS = ['q', 'k', 'v', 'key_bias']
SHARED = dict(Gq=1, Gk=1, Gv=1, bias=True)


def problem(
  Gq=H, Gk=H, Gv=H, bias=False, H=H, T=T, S=S, K=K, V=V, lead=(), seed=0
):
  """q, k, v and maybe key_bias, and the cotangent of the output."""
  rng = np.random.default_rng(seed)
  H = H if bias else max(Gq, Gk, Gv)
  make = lambda *shape: normal(rng, *lead, B, *shape)
  args = dict(q=make(T, Gq, K), k=make(S, Gk, K), v=make(S, Gv, V))
  if bias:
    args['key_bias'] = make(S, H)
  return args, make(T, H, V)


def formula(args, mask=None, keep=None, soft_cap=None):
  """The reference on the same arguments, expanded to all heads."""
  args = dict(args)
  q, k, v, b = (args.get(n) for n in ('q', 'k', 'v', 'key_bias'))
  H = b.shape[2] if b is not None else max(x.shape[2] for x in (q, k, v))
  q, k, v = (np.repeat(x, H // x.shape[2], 2) for x in (q, k, v))
  return reference.heads_softmax(
    q, k, v, key_bias=b, scale=1.0, mask=mask, keep=keep, soft_cap=soft_cap
  )


def check(args, w, o, grads, mask=None, keep=None, **how):
  """Output and gradients to 1e-5; of one key alone, ds is rounding only."""
  close(o, formula(args, mask, keep, **how))
  total = sum(np.linalg.norm(g) for g in grads.values())
  check_gradients(args, w, grads, mask, keep, slack=1e-6 * total, **how)


def check_gradients(
  args, w, grads, mask=None, keep=None, rel=1e-5, slack=0.0, **how
):
  """Derivatives along random directions of each argument alone."""
  rng = np.random.default_rng(3)
  loss = lambda args: (formula(args, mask, keep, **how) * w).sum()
  zero = {n: np.zeros(x.shape) for n, x in args.items()}
  for name, g in grads.items():
    g = np.asarray(g, 'float64')
    assert np.isfinite(g).all(), name
    for _ in range(3):
      u = rng.normal(size=g.shape)
      want = reference.directional(loss, args, zero | {name: u})
      # u is standard normal, so that |g . u| is about |g|.
      error, size = abs((g * u).sum() - want), np.linalg.norm(g)
      assert error <= rel * size + slack, (name, error, size)


@functools.lru_cache
def compiled(kernel, **static):
  """(args, w, mask, key) -> output, alive and gradients, under jit."""

  @jax.jit
  def run(args, w, mask=None, key=None):
    def loss(args):
      o, alive = kernel(**args, mask=mask, key=key, **static)
      return (o * w).sum(), (o, alive)

    grads, (o, alive) = jax.grad(loss, has_aux=True)(args)
    return o, alive, grads

  return run


def cut(mask, **sizes):
  """The Mask made ready, and the same as an array."""
  sizes = dict(B=B, H=H, T=T, S=S) | sizes
  batch, *rest = sizes.values()
  return masks.check(mask, (batch,), *rest), literal(mask, **sizes)


RNG = np.random.default_rng(5)
EVERY_KIND = {
  'none': masks.Mask(),
  'causal': masks.Mask(causal=True),
  'window': masks.Mask(causal=True, window=3),
  'offset': masks.Mask(causal=True, window=4, offset=2),
  'valid': masks.Mask(key_valid=RNG.random((B, S)) < 0.6),
  'one_row_valid': masks.Mask(key_valid=RNG.random((1, S)) < 0.6),
  'segments': masks.Mask(
    q_segments=RNG.integers(0, 3, (B, T)),
    kv_segments=RNG.integers(0, 2, (B, S)),  # nothing for segment 2
  ),
  'positions': masks.Mask(causal=True, q_positions=RNG.integers(-1, S, (B, T))),
  'dense_11': masks.Mask(dense=RNG.random((1, 1, T, S)) < 0.6),
  'dense_keys': masks.Mask(dense=RNG.random((B, 1, 1, S)) < 0.6),
  'dense_heads': masks.Mask(dense=RNG.random((B, H, T, S)) < 0.4),
  'all': masks.Mask(
    causal=True,
    key_valid=RNG.random((B, S)) < 0.8,
    q_segments=RNG.integers(0, 2, (B, T)),
    kv_segments=RNG.integers(0, 2, (B, S)),
    q_positions=RNG.integers(0, S, (B, T)),
    dense=RNG.random((B, 1, T, S)) < 0.8,
    window=5,
  ),
}


# The formula ------------------------------------------------------------------


# Of the masks, those that a kernel itself has to know of; and all at once.
@few(EVERY_KIND, ['offset', 'dense_heads', 'all'], 'kind')
@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
def test_kernels_are_the_formula_under_every_mask(kernel, kind):
  if (kernel, kind) == ('shared_scores', 'dense_heads'):
    pytest.skip('shared scores have one mask for all heads')
  args, w = problem(**SHARED)
  mask, dense = cut(EVERY_KIND[kind])
  static = {} if kernel == 'grouped' else dict(block=3)
  o, alive, grads = compiled(getattr(kernels, kernel), **static)(args, w, mask)
  check(args, w, o, grads, dense)
  want = np.broadcast_to(dense.any(-1).swapaxes(1, 2)[..., None], (B, T, H, 1))
  np.testing.assert_array_equal(np.broadcast_to(alive, want.shape), want)
  dead = ~want[..., 0]
  assert (np.asarray(o)[dead] == 0).all()
  if (gone := dead.all(-1)).any():
    assert (np.asarray(grads['q'])[gone] == 0).all()


@few(
  [('blockwise', n) for n in (1, 2, 3, T, 100)]
  + [('shared_scores', n) for n in (1, 3, T)],
  [('blockwise', 2), ('blockwise', 100), ('shared_scores', T)],
  'kernel, block',
)
def test_any_block_size(kernel, block):
  """T is prime: no block divides it but 1 and T. Causal runs are cut."""
  args, w = problem(**SHARED)
  mask, dense = cut(masks.Mask(causal=True))
  o, _, grads = compiled(getattr(kernels, kernel), block=block)(args, w, mask)
  check(args, w, o, grads, dense)


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
@few([(2, 17), (17, 2), (1, 5), (5, 1), (1, 1)], [(2, 17), (17, 2)], 'T, S')
def test_causal_with_more_keys_or_more_queries(kernel, T, S):
  args, w = problem(**SHARED, T=T, S=S)
  mask, dense = cut(masks.Mask(causal=True), T=T, S=S)
  static = {} if kernel == 'grouped' else dict(block=4)
  o, _, grads = compiled(getattr(kernels, kernel), **static)(args, w, mask)
  check(args, w, o, grads, dense)


def test_long_causal_runs_are_cut_to_what_they_see():
  """More blocks than runs, and every run but the last sees fewer keys."""
  T = 37
  args, w = problem(T=T, S=T, H=2, Gq=2, Gk=2, Gv=1)
  mask, dense = cut(masks.Mask(causal=True), H=2, T=T, S=T)
  o, _, grads = compiled(kernels.blockwise, block=2)(args, w, mask)
  check(args, w, o, grads, dense)
  options = blocks.Options(None, 2, 0.0, None)
  q = jnp.zeros((B, 1, T, K))
  stops = [run.stop for run in blocks._runs(options, q, (q,), mask, None)]
  assert len(stops) == blocks.CAUSAL_RUNS
  assert stops == sorted(set(stops))
  assert stops[-1] == T


@few(['blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
@few([(1, 0), (6, 0), (6, 6), (40, 0)], [(6, 6)], 'window, offset')
def test_runs_under_a_window_are_cut_at_both_ends(kernel, window, offset):
  """And dropout is that of the whole rows."""
  T = 19
  args, w = problem(**SHARED, T=T, S=T + offset)
  mask = masks.Mask(causal=True, window=window, offset=offset)
  mask, dense = cut(mask, T=T, S=T + offset)
  key = jax.random.key(0)
  static = dict(block=2, rate=0.3)
  o, _, grads = compiled(getattr(kernels, kernel), **static)(args, w, mask, key)
  keep = blocks.keep_pairs(key, 0.3, 0, T, T + offset)
  check(args, w, o, grads, dense, np.asarray(keep))
  options = blocks.Options(None, 2, 0.0, None)
  q = jnp.zeros((B, 1, T, K))
  k = jnp.zeros((B, 1, T + offset, K))
  runs = blocks._runs(options, q, (k,), mask, None)
  for run in runs:
    rows = dense[0, 0, run.first * run.t : run.end * run.t]
    seen = np.flatnonzero(rows.any(0))
    assert (run.begin, run.stop) == (seen[0], seen[-1] + 1)


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise'])
@few(['none', 'causal', 'valid', 'all'], ['all'], 'kind')
def test_a_soft_cap_bounds_scores_with_their_bias(kernel, kind):
  args, w = problem(**SHARED)
  mask, dense = cut(EVERY_KIND[kind])
  static = dict(soft_cap=1.7) | ({} if kernel == 'grouped' else dict(block=3))
  o, _, grads = compiled(getattr(kernels, kernel), **static)(args, w, mask)
  check(args, w, o, grads, dense, soft_cap=1.7)
  free = compiled(getattr(kernels, kernel))(args, w, mask)[0]
  assert np.abs(free - o).max() > 0.1


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
  H=st.sampled_from([4, 6]),
  groups=st.tuples(*[st.integers(0, 9)] * 3),
  bias=st.booleans(),
  block=st.integers(1, T + 1),
  kind=st.sampled_from(sorted(set(EVERY_KIND) - {'dense_heads'})),
)
def test_any_sharing(H, groups, bias, block, kind):
  """Gq, Gk, Gv divide H independently; with the formula's repeat of heads."""
  divisors = [g for g in range(1, H + 1) if H % g == 0]
  Gq, Gk, Gv = (divisors[i % len(divisors)] for i in groups)
  args, w = problem(Gq, Gk, Gv, bias, H=H)
  if w.shape[2] % Gq or w.shape[2] % Gk or w.shape[2] % Gv:
    return  # without bias, H is the largest of the three
  mask, dense = cut(EVERY_KIND[kind], H=w.shape[2])
  o, _, grads = compiled(kernels.blockwise, block=block)(args, w, mask)
  check(args, w, o, grads, dense)
  close(jax.jit(kernels.grouped)(**args, mask=mask)[0], formula(args, dense))


def test_grouped_has_forward_mode():
  args, _ = problem(**SHARED)
  rng = np.random.default_rng(3)
  along = {n: normal(rng, *x.shape) for n, x in args.items()}
  f = lambda args: kernels.grouped(**args)[0]
  _, got = jax.jvp(f, (args,), (along,))
  close(got, reference.directional(formula, args, along))


# Dropout ----------------------------------------------------------------------


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
def test_dropout_is_one_pattern_whatever_the_kernel(kernel):
  """Dropped after the normalisation, forward and backward."""
  args, w = problem(**SHARED)
  mask, dense = cut(masks.Mask(causal=True))
  key, rate = jax.random.key(4), 0.4
  keep = np.asarray(blocks.keep_pairs(key, rate, 0, T, S))
  assert 0 < (keep == 0).mean() < 1
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), rate=rate, **static)
  o, _, grads = run(args, w, mask, key)
  check(args, w, o, grads, dense, keep)


def test_dropout_takes_raw_keys():
  args, w = problem()
  run = compiled(kernels.blockwise, rate=0.5, block=3)
  o = run(args, w, None, jax.random.key(4))[0]
  np.testing.assert_array_equal(o, run(args, w, None, jax.random.PRNGKey(4))[0])


def test_dropout_keeps_its_rate_and_depends_on_key_and_place():
  n, rate = 211, 0.3
  keep = np.asarray(blocks.keep_pairs(jax.random.key(0), rate, 0, n, n))
  assert set(np.unique(keep)) == {0, np.float32(1 / (1 - rate))}
  sigma = (rate * (1 - rate)) ** 0.5 / n
  assert abs((keep == 0).mean() - rate) < 4 * sigma
  assert abs((keep == 0).mean(-1) - rate).max() < 6 * sigma * n**0.5
  other = np.asarray(blocks.keep_pairs(jax.random.key(1), rate, 0, n, n))
  assert (keep != other).mean() > 0.3  # 2 rate (1 - rate) of them
  part = blocks.keep_pairs(jax.random.key(0), rate, 100, 7, n)
  np.testing.assert_array_equal(part, keep[:, :, 100:107])


def test_dropout_per_head_and_example():
  p = jnp.ones((B, H, 31, 37))
  key = jax.random.key(0)
  one = np.asarray(kernels.drop(p, 0.3, key))
  each = np.asarray(kernels.drop(p, 0.3, key, broadcast=False))
  assert (one == one[:1, :1]).all()
  flat = each.reshape(B * H, -1)
  for i in range(B * H):
    for j in range(i):
      assert (flat[i] != flat[j]).mean() > 0.3
  assert abs((each == 0).mean() - 0.3) < 0.03
  assert each.max() == np.float32(1 / 0.7)


# Nothing to attend to ---------------------------------------------------------


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_no_key_at_all_is_zero_with_zero_gradients(kernel, rate):
  args, w = problem(**SHARED)
  mask = masks.Mask(key_valid=np.zeros((B, S), bool))
  mask = masks.check(mask, (B,), H, T, S)
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), rate=rate, **static)
  o, alive, grads = run(args, w, mask, jax.random.key(0))
  assert not alive.any()
  for x in (o, *grads.values()):
    assert (np.asarray(x) == 0).all()


# Numerics ---------------------------------------------------------------------


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('where', ['q', 'k'])
def test_nan_is_not_a_row_without_keys(kernel, masked, where):
  """What is broken comes out as NaN, never as the zeros of a masked row."""
  args, _ = problem(**SHARED)
  args[where][0, 3] = np.nan
  mask = masks.Mask(causal=True) if masked else None
  o, alive = getattr(kernels, kernel)(**args, mask=mask)
  broken = np.isnan(np.asarray(jnp.where(alive, o, 0))).all((2, 3))
  expected = np.zeros((B, T), bool)
  rows = slice(3, 4) if where == 'q' else slice(3 if masked else 0, None)
  expected[0, rows] = True
  np.testing.assert_array_equal(broken, expected)


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
def test_overflow_is_nan_with_a_mask_too(kernel):
  """Scores of -inf for all keys of a row are no row without keys."""
  args, _ = problem(**SHARED)
  args['q'][0, 3], args['k'][:] = -1e30, 1e30
  for mask in (None, masks.Mask(causal=True)):
    o, alive = getattr(kernels, kernel)(**args, mask=mask)
    assert np.isnan(np.asarray(jnp.where(alive, o, 0))[0, 3]).all()


def integers(scale, bias_range, T, S, lead=(), seed=0):
  """Scores and biases that float32 and bfloat16 hold exactly.

  So that errors are the kernel's, not of rounding a score of 10^4.
  """
  rng = np.random.default_rng(seed)
  f = lambda high, *shape: rng.integers(-high, high + 1, (*lead, B, *shape))
  args = dict(q=f(2, T, 1, 3) * scale, k=f(3, S, 1, 3), v=f(4, S, 1, 2))
  bias = rng.random((*lead, B, S, H)).argsort(-2) / max(S - 1, 1)
  args['key_bias'] = bias * bias_range - bias_range / 2
  args = {n: x.astype('bfloat16').astype('float32') for n, x in args.items()}
  return args, f(3, T, H, 2).astype('float32')


BIAS_RANGES = [0, 44, 58, 59.9, 60, 60.1, 90, 200, 1e4]
SCALES = [1, 16, 1024]  # scores up to 18, 288 and 18,432


def one_key_left(T, S, rng):
  return (np.arange(S) == rng.integers(0, S, (B, 1, T, 1))).astype(bool)


def adversarial_masks(T, S):
  rng = np.random.default_rng(1)
  dense = rng.random((B, 1, T, S)) < 0.5
  dense[0, 0, 0] = False
  return [
    np.ones((B, 1, T, S), bool),
    np.broadcast_to(np.tril(np.ones((T, S), bool)), (B, 1, T, S)),
    one_key_left(T, S, rng),
    dense,
  ]


def slack(args, w, eps):
  """What rounding by eps can do to a saturated, hence tiny, gradient."""
  peak = {n: np.abs(x).max() for n, x in (args | dict(w=w)).items()}
  size = peak['w'] * peak['v'] * max(peak['q'], peak['k'], 1)
  return eps * size * w.size


@few([(11, 7), (1, 7), (7, 1), (1, 1)], [(11, 7)], 'T, S')
def test_shared_scores_survive_any_range(T, S):
  run = compiled(kernels.shared_scores, block=3)
  for bias_range in BIAS_RANGES:
    for scale in SCALES:
      args, w = integers(scale, bias_range, T, S)
      for dense in adversarial_masks(T, S):
        o, _, grads = run(args, w, masks.Mask(dense=dense))
        close(o, formula(args, dense))
        check_gradients(args, w, grads, dense, slack=slack(args, w, 1e-7))


@few([11, 1], [11], 'T')
def test_shared_scores_survive_any_range_in_bfloat16(T):
  run = compiled(kernels.shared_scores, block=3)
  for bias_range in BIAS_RANGES:
    for scale in SCALES:
      args, w = integers(scale, bias_range, T, S)
      low = {n: x.astype(jnp.bfloat16) for n, x in args.items()}
      for dense in adversarial_masks(T, S):
        o, _, grads = run(low, w, masks.Mask(dense=dense))
        assert o.dtype == jnp.bfloat16
        close(o.astype('float32'), formula(args, dense), rel=2e-2)
        check_gradients(
          args, w, grads, dense, rel=3e-2, slack=slack(args, w, 4e-3)
        )


def test_causal_rows_may_see_only_keys_far_below_the_top():
  """The case that a bound per visible pair would get wrong: 0 / 0 in row 0."""
  args, w = integers(1, 0, 4, 4)
  args['q'] *= 0
  args['key_bias'] = np.zeros((B, 4, H), 'float32')
  dense = np.tril(np.ones((4, 4), bool))
  for depth in (-59, -61, -100, -1e4):
    args['key_bias'][:, 0] = depth
    run = compiled(kernels.shared_scores)
    o, _, grads = run(args, w, masks.Mask(causal=True))
    close(o, formula(args, dense))
    check_gradients(args, w, grads, dense, slack=slack(args, w, 1e-7))


@few(['grad of vmap', 'vmap of grad'], ['grad of vmap'], 'order')
def test_shared_scores_survive_vmap(order):
  """cond becomes select: both sides run, and neither may spoil the other."""
  T, S = 11, 7

  def attend(args, mask):
    return kernels.shared_scores(**args, mask=mask, block=3)[0]

  if order == 'grad of vmap':
    f = jax.grad(lambda a, w, m: (jax.vmap(attend)(a, m) * w).sum())
  else:
    f = jax.vmap(jax.grad(lambda a, w, m: (attend(a, m) * w).sum()))
  f, forward = jax.jit(f), jax.jit(jax.vmap(attend))
  for scale in SCALES:
    # One program, each example of it on its own side of the bound.
    ranges = np.repeat([0, 59, 61, 1e4], 4)
    cases = [integers(scale, r, T, S, seed=i) for i, r in enumerate(ranges)]
    dense = adversarial_masks(T, S) * 4
    stack = lambda *x: np.stack(x)
    args, w = jax.tree.map(stack, *cases)
    mask = masks.Mask(dense=np.stack(dense))
    o, grads = forward(args, mask), f(args, w, mask)
    for i, (a, b) in enumerate(cases):
      close(o[i], formula(a, dense[i]))
      g = {n: x[i] for n, x in grads.items()}
      check_gradients(a, b, g, dense[i], slack=slack(a, b, 1e-7))


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
def test_a_large_common_score_costs_no_precision(kernel):
  """Scores 10^4 and a few: the row statistics must not round the few away."""
  args, w = integers(1, 4, T, S)
  wide = lambda x: np.concatenate([np.full_like(x[..., :1], 100), x], -1)
  args |= dict(q=wide(args['q']), k=wide(args['k'] / 8))
  static = {} if kernel == 'grouped' else dict(block=3)
  o, _, grads = compiled(getattr(kernels, kernel), **static)(args, w)
  close(o, formula(args))
  del grads['q']  # of its first component nothing but rounding is left
  check_gradients(args, w, grads)


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise'])
def test_general_kernels_survive_any_range(kernel):
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), **static)
  for bias_range in (0, 200, 1e4):
    for scale in SCALES:
      args, w = integers(scale, bias_range, T, S)
      for dense in adversarial_masks(T, S):
        o, _, grads = run(args, w, masks.Mask(dense=dense))
        close(o, formula(args, dense))
        check_gradients(args, w, grads, dense, slack=slack(args, w, 1e-7))


def test_an_invisible_key_does_not_count_for_the_guard():
  """Biases of padding may be anything; the shared side stays exact."""
  args, w = integers(1, 40, T, S)
  valid = np.arange(S) < S - 2
  args['key_bias'][:, ~valid] = 1e30
  mask = masks.Mask(key_valid=np.broadcast_to(valid, (B, S)))
  o, _, grads = compiled(kernels.shared_scores, block=3)(args, w, mask)
  dense = valid[None, None, None]
  close(o, formula(args, dense))
  check_gradients(args, w, grads, dense)
  assert (np.asarray(grads['key_bias'])[:, ~valid] == 0).all()


@pytest.mark.parametrize(
  'bias_range, padding, shared',
  [(0, 0, True), (59.9, 0, True), (60.1, 0, False), (1e4, 0, False)]
  + [(59.9, 1e30, True), (59.9, -1e30, True), (60.1, 1e30, False)],
)
def test_the_guard_takes_the_side_it_should(
  monkeypatch, bias_range, padding, shared
):
  """Only keys that somebody may see count. The general side is poisoned."""
  general = shared_scores._GENERAL

  def poisoned(o, stats):
    o, stats = general.from_kernel(o, stats)
    return o * jnp.nan, stats

  layout = general._replace(from_kernel=poisoned)
  monkeypatch.setattr(shared_scores, '_GENERAL', layout)
  args, _ = problem(**SHARED)
  bias = np.linspace(0, bias_range, S, dtype='float32')
  args['key_bias'] = np.broadcast_to(bias[None, :, None], (B, S, H)).copy()
  mask = None
  if padding:
    args = {n: np.concatenate([x, x], 1) for n, x in args.items() if n != 'q'}
    args['q'] = problem(**SHARED)[0]['q']
    args['key_bias'][:, S:] = padding
    mask = masks.Mask(key_valid=np.arange(2 * S)[None] < S)
  o, _ = kernels.shared_scores(**args, mask=mask)
  assert np.isfinite(o).all() == shared


@pytest.mark.parametrize('kernel', ['blockwise', 'shared_scores'])
@pytest.mark.parametrize('bias_range', [200, 1e4])
def test_rows_that_fill_up_a_block_see_no_bias(kernel, bias_range):
  """3 does not divide 11, and no mask hides what the last block is filled with.

  Such a row has no query to balance a bias of 200, whose exponential is inf.
  """
  args, w = integers(1, bias_range, T, S)
  o, _, grads = compiled(getattr(kernels, kernel), block=3)(args, w)
  close(o, formula(args))
  check_gradients(args, w, grads, slack=slack(args, w, 1e-7))


# Number formats and empty axes ------------------------------------------------


@few(['grouped', 'blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
def test_small_cotangents_survive_long_rows_in_float16(kernel):
  """A loss of a mean: what is left for a key of 2,048 is below 6e-8.

  The gradients themselves are larger, and as exact as float16 has them.
  """
  S = 2048
  args, w = problem(**SHARED, T=64, S=S)
  args = {n: (x / 4).astype('float16') for n, x in args.items()}
  w = (w * 1e-4).astype('float16')
  static = {} if kernel == 'grouped' else dict(block=16)
  _, _, grads = compiled(getattr(kernels, kernel), **static)(args, w)
  exact = {n: x.astype('float32') for n, x in args.items()}
  _, _, want = compiled(kernels.grouped)(exact, w.astype('float32'))
  spacing = 2.0**-24  # of subnormal numbers
  for name, g in grads.items():
    assert g.dtype == np.float16
    error = np.linalg.norm(g.astype('float32') - want[name])
    size = np.linalg.norm(want[name])
    assert error <= 2e-3 * size + spacing * g.size**0.5, (name, error, size)


@few(['grouped', 'blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
@few(['float16', 'bfloat16', 'float32'], ['bfloat16'], 'dtype')
def test_low_precision_is_near(kernel, dtype):
  args, w = problem(**SHARED)
  mask, dense = cut(EVERY_KIND['all'])
  low = {n: jnp.asarray(x, dtype) for n, x in args.items()}
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), rate=0.3, **static)
  key = jax.random.key(4)
  o, _, _ = run(low, jnp.asarray(w, dtype), mask, key)
  keep = np.asarray(blocks.keep_pairs(key, 0.3, 0, T, S))
  rel = 1e-5 if dtype == 'float32' else 3e-2
  close(o.astype('float32'), formula(args, dense, keep), rel=rel)


@pytest.mark.parametrize('kernel', ['grouped', 'blockwise', 'shared_scores'])
@pytest.mark.parametrize(
  'low, dtype',
  [(ARGUMENTS, d) for d in ('float16', 'bfloat16', 'float32')]
  + [([name], 'float16') for name in ARGUMENTS],
  ids=str,
)
def test_strict_promotion(kernel, low, dtype):
  """Nothing is promoted but where the code says so.

  The result has the values' dtype, gradients that of what they are of.
  """
  args, w = problem(**SHARED)
  args |= {n: args[n].astype(dtype) for n in low}
  mask, _ = cut(EVERY_KIND['all'])
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), rate=0.3, **static)
  with jax.numpy_dtype_promotion('strict'):
    o, _, grads = jax.eval_shape(
      run, args, w.astype(args['v'].dtype), mask, jax.random.key(4)
    )
  assert o.dtype == args['v'].dtype
  assert {n: g.dtype for n, g in grads.items()} == {
    n: x.dtype for n, x in args.items()
  }


@few(['grouped', 'blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
@few(ARGUMENTS, ['key_bias'], 'low')
def test_one_argument_of_another_dtype(kernel, low):
  args, w = problem(**SHARED)
  rounded = args[low].astype('float16')
  mixed = args | {low: rounded}
  args = args | {low: rounded.astype('float32')}
  static = {} if kernel == 'grouped' else dict(block=3)
  run = compiled(getattr(kernels, kernel), **static)
  o, _, grads = run(mixed, w.astype(mixed['v'].dtype))
  close(o.astype('float32'), formula(args), rel=2e-3)
  check_gradients(args, w, grads, rel=5e-3)


@pytest.mark.parametrize('name', ['B', 'T', 'S'])
@pytest.mark.parametrize('mask', [None, masks.Mask(causal=True)], ids=str)
@pytest.mark.parametrize('shape', [SHARED, {}], ids=['shared', 'mha'])
def test_empty_axes(name, mask, shape):
  """Empty results; without keys, zeros and no row that is alive."""
  args, _ = problem(**shape)
  axis = dict(B=0, T=1, S=1)[name]
  empty = dict(B=args, T=['q'], S=set(args) - {'q'})[name]
  args |= {n: args[n].take([], axis) for n in empty}
  args = {'key_bias': None} | args
  want = (args['q'].shape[0], args['q'].shape[1], H, V)

  def loss(args):
    o, alive = kernels.attend(**args, mask=mask, H=H)
    return o.sum(), (o, alive)

  grads, (o, alive) = jax.grad(loss, has_aux=True)(args)
  plain, alive_too = kernels.grouped(**args, mask=mask)
  assert o.shape == plain.shape == want
  for x in (o, plain, *jax.tree.leaves(grads)):
    assert (np.asarray(x) == 0).all()
  if name == 'S':
    assert not alive.any()
    assert not alive_too.any()


# The choice -------------------------------------------------------------------


def chosen(monkeypatch, mask=None, T=T, **shape):
  """The name of the kernel that `attend` takes."""
  calls = []
  for name in ('grouped', 'blockwise', 'shared_scores'):

    def spy(real, name, *args, **kwargs):
      calls.append(name)
      return real(*args, **kwargs)

    real = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, functools.partial(spy, real, name))
  args, w = problem(T=T, **shape)
  args = {'key_bias': None} | args
  run = lambda: kernels.attend(**args, mask=mask, H=H)
  o, _ = jax.eval_shape(run)
  assert o.shape == (B, T, H, V)
  return calls[0]


@pytest.mark.parametrize(
  'expected, case',
  [
    ('shared_scores', SHARED),
    ('blockwise', SHARED | dict(T=1)),  # too few queries to pay
    ('blockwise', SHARED | dict(mask=EVERY_KIND['dense_heads'])),
    ('blockwise', dict(Gq=1, Gk=1, Gv=1)),
    ('blockwise', dict(Gq=1, Gk=1, Gv=1, mask=EVERY_KIND['dense_heads'])),
    ('blockwise', dict(Gk=1, Gv=1)),
    ('blockwise', dict()),
  ],
)
def test_the_choice_of_kernel(monkeypatch, expected, case):
  assert chosen(monkeypatch, **case) == expected


def test_equal_heads_under_a_mask_per_head():
  """One head of q, k and v, but each head sees other keys."""
  args, _ = problem(Gq=1, Gk=1, Gv=1)
  mask, dense = cut(EVERY_KIND['dense_heads'])
  o, alive = kernels.attend(**args, key_bias=None, mask=mask, H=H)
  expanded = args | dict(q=np.repeat(args['q'], H, 2))
  close(o, formula(expanded, dense))
  assert alive.shape == (B, T, H, 1)


@few(['blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
def test_memory_is_linear_in_length(kernel):
  """Four times the length takes four times the memory, not sixteen."""

  def temporary(T):
    args, w = problem(**SHARED, T=8, S=8)
    longer = lambda x: jax.ShapeDtypeStruct((B, T, *x.shape[2:]), x.dtype)
    shapes = {n: longer(x) for n, x in args.items()}
    run = compiled(getattr(kernels, kernel), block=16)
    program = run.lower(shapes, longer(w)).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert temporary(4096) < 5 * temporary(1024)
