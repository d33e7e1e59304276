# SPDX-License-Identifier: Apache-2.0
"""The Pallas kernels are the formula in the interpreter, and lower elsewhere.

No accelerator is needed: Mosaic (TPU) and Triton (GPU) take the kernels on a
CPU; what they make of them is neither compiled nor run.
"""

import functools

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from collab import attention
from collab.accounting import trace
from collab.attention import flash, kernels, masks
from tests.attention.test_kernels import (
  BIAS_RANGES,
  check,
  check_gradients,
  compiled,
  cut,
  formula,
  integers,
  problem,
  slack,
)
from tests.attention.variants import close

B, T, S, BLOCK = 2, 37, 29, 16
TWO_HEADS = flash.Flash('interpret', BLOCK, 26)  # of V = 13 in a tile
SHARED = dict(Gq=1, Gk=1, Gv=1, bias=True, H=6)
RNG = np.random.default_rng(7)
VALID = RNG.random((B, S)) < 0.6
VALID[1] = False  # no key at all
SEGMENTS = dict(
  q_segments=RNG.integers(0, 3, (B, T)),
  kv_segments=RNG.integers(0, 2, (B, S)),  # nothing for segment 2
)
MASKS = {
  'none': masks.Mask(),
  'causal': masks.Mask(causal=True),
  'valid': masks.Mask(key_valid=VALID),
  'segments': masks.Mask(**SEGMENTS),
  'one_row': masks.Mask(causal=True, key_valid=RNG.random((1, S)) < 0.6),
  'all': masks.Mask(causal=True, key_valid=VALID, **SEGMENTS),
}


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


def run(kernel, args, w, mask=None, flash=TWO_HEADS):
  return compiled(getattr(kernels, kernel), flash=flash)(args, w, mask)


def agree(kernel, args, w, mask=None, **static):
  """Float64's formula, and `grouped` in each component of each gradient."""
  Tq, Sk, H = w.shape[1], args['k'].shape[1], w.shape[2]
  mask, dense = cut(mask or masks.Mask(), H=H, T=Tq, S=Sk)
  o, alive, grads = run(kernel, args, w, mask, **static)
  check(args, w, o, grads, dense)
  want, want_alive, want_grads = compiled(kernels.grouped)(args, w, mask)
  close(o, want)
  for name, g in grads.items():
    assert g.dtype == args[name].dtype
    close(g, want_grads[name])
  same = np.broadcast_to(alive, (B, Tq, H, 1))
  assert (same == np.broadcast_to(want_alive, same.shape)).all()
  assert (np.asarray(o)[~same[..., 0]] == 0).all()


# The formula ------------------------------------------------------------------


@pytest.mark.parametrize(
  'kind', [kind if kind == 'all' else slow(kind) for kind in MASKS]
)
@pytest.mark.parametrize('kernel', ['blockwise', 'shared_scores'])
def test_every_mask(kernel, kind):
  args, w = problem(**SHARED, T=T, S=S)
  agree(kernel, args, w, MASKS[kind])


@pytest.mark.parametrize(
  'groups, bias',
  [
    ((3, 3, 3), False),  # mha
    ((6, 3, 3), False),  # gqa
    ((6, 1, 1), True),  # mqa, with a bias
    ((3, 1, 3), True),  # collab, folded
    ((6, 2, 3), False),
    ((1, 1, 6), False),
  ],
)
def test_any_sharing(groups, bias):
  args, w = problem(*groups, bias, H=6, T=T, S=S)
  agree('blockwise', args, w, masks.Mask(causal=True))


@pytest.mark.parametrize('kernel', ['blockwise', 'shared_scores'])
@pytest.mark.parametrize('T, S', [(5, 47), (47, 5), slow(16, 16), slow(32, 33)])
def test_lengths_that_fill_their_blocks_or_not(kernel, T, S):
  args, w = problem(**SHARED | dict(H=2), T=T, S=S, K=1, V=17)
  agree(kernel, args, w, masks.Mask(causal=True))


@pytest.mark.parametrize('H, width', [(6, 1), (6, 13 * 6), (7, 13 * 6), (1, 1)])
def test_heads_that_share_a_tile(H, width):
  """One, all, one because none divides 7, one because there is one."""
  args, w = problem(**SHARED | dict(H=H), T=T, S=S)
  agree('shared_scores', args, w, flash=TWO_HEADS._replace(width=width))


@pytest.mark.parametrize('kernel', ['blockwise', 'shared_scores'])
@pytest.mark.parametrize('causal', [False, True])
def test_biases_of_any_range(kernel, causal):
  """Beyond SAFE_RANGE shared scores are computed head by head."""
  mask, dense = cut(masks.Mask(causal=causal), T=T, S=S)
  for bias_range in BIAS_RANGES:
    args, w = integers(16, bias_range, T, S)
    o, _, grads = run(kernel, args, w, mask)
    close(o, formula(args, dense))
    check_gradients(args, w, grads, dense, slack=slack(args, w, 1e-7))


@pytest.mark.parametrize('kernel', ['blockwise', 'shared_scores'])
def test_bfloat16(kernel):
  mask, dense = cut(masks.Mask(causal=True), T=T, S=S)
  args, w = integers(1, 44, T, S)
  low = {n: x.astype(jnp.bfloat16) for n, x in args.items()}
  o, _, grads = run(kernel, low, w, mask)
  assert {x.dtype for x in (o, *grads.values())} == {jnp.dtype('bfloat16')}
  close(o.astype('float32'), formula(args, dense), rel=2e-2)
  check_gradients(args, w, grads, dense, rel=3e-2, slack=slack(args, w, 4e-3))


def test_vmap():
  """cond becomes select, and the grid gets an axis."""
  cases = [integers(1, r, T, S, seed=i) for i, r in enumerate([59, 61])]
  args, w = jax.tree.map(lambda *x: np.stack(x), *cases)

  def loss(args, w):
    return (kernels.shared_scores(**args, flash=TWO_HEADS)[0] * w).sum()

  grads = jax.jit(jax.vmap(jax.grad(loss)))(args, w)
  for i, (a, b) in enumerate(cases):
    g = {n: x[i] for n, x in grads.items()}
    check_gradients(a, b, g, slack=slack(a, b, 1e-7))


# What causality leaves out ----------------------------------------------------


def test_tiles_above_the_diagonal_are_not_computed():
  """NaN there would reach what it is multiplied with, by zero or not."""
  T = 3 * BLOCK
  args, w = problem(H=2, Gq=2, Gk=2, Gv=2, T=T, S=T)
  mask, _ = cut(masks.Mask(causal=True), H=2, T=T, S=T)
  late = {n: x.copy() for n, x in args.items()}
  for name in 'kv':
    late[name][:, -BLOCK:] = np.nan
  o, _, grads = run('blockwise', late, w, mask)
  for x in (o, grads['q']):
    assert np.isfinite(x[:, :-BLOCK]).all()
    assert np.isnan(x[:, -BLOCK:]).all()
  early = args | dict(q=args['q'].copy())
  early['q'][:, :BLOCK] = np.nan
  _, _, grads = run('blockwise', early, w, mask)
  for name in 'kv':
    assert np.isfinite(grads[name][:, BLOCK:]).all()
    assert np.isnan(grads[name][:, :BLOCK]).all()


@pytest.mark.parametrize('causal, tiles', [(False, 9), (True, 6)])
def test_accounting_counts_what_is_executed(causal, tiles):
  T, K, V, H = 3 * BLOCK, 16, 32, 2
  args, _ = problem(H=H, Gq=H, Gk=H, Gv=H, T=T, S=T, K=K, V=V)
  mask = masks.Mask(causal=True) if causal else None

  def loss(args):
    return kernels.blockwise(**args, mask=mask, flash=TWO_HEADS)[0].sum()

  pairs = B * H * tiles * BLOCK**2
  assert trace.flops(loss, args) == 2 * pairs * (K + V)
  backward = (2 * K + V) + 2 * (K + V)  # both compute the scores again
  assert trace.flops(jax.grad(loss), args) == 2 * pairs * (K + V + backward)


# The choice -------------------------------------------------------------------


def on(monkeypatch, platform):
  """Makes the choice that one such device would."""
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)


def array(*shape, dtype='bfloat16'):
  return jax.ShapeDtypeStruct(shape, dtype)


def planned(T=128, S=128, K=64, V=64, mask=None, H=1, rate=0.0, **more):
  precision = more.pop('precision', None)
  q, k, v = array(B, T, 4, K, **more), array(B, S, 1, K), array(B, S, 2, V)
  return flash.plan(q, k, v, mask, H, rate, precision)


def test_the_plan(monkeypatch):
  assert planned() is None  # on CPU
  for platform in ('tpu', 'gpu'):
    on(monkeypatch, platform)
    best = flash.BACKENDS[platform]
    assert planned() == planned(H=12) == best
    assert planned(T=131, S=257, K=37, V=51) == best
    assert planned(precision='highest') == best
    assert planned(precision=jax.lax.Precision.DEFAULT) == best
    for mask in MASKS.values():
      assert planned(mask=mask) == best


@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
@pytest.mark.parametrize(
  'case',
  [
    dict(rate=0.1),
    dict(mask=masks.Mask(dense=np.ones((1, 1, 1, 128), bool))),
    dict(mask=masks.Mask(causal=True, q_positions=np.zeros((B, 128)))),
    dict(T=31),
    dict(S=31),
    dict(dtype='float32'),  # queries other than keys
    dict(dtype='float64'),
    dict(precision='high'),
    dict(K=1 << 14),
  ],
  ids=str,
)
def test_what_stays_in_xla(monkeypatch, platform, case):
  on(monkeypatch, platform)
  assert planned(**case) is None


def test_long_rows_stay_in_xla_on_tpu(monkeypatch):
  on(monkeypatch, 'tpu')
  assert planned(S=4096)
  assert planned(S=1 << 14) is None


def test_cudnn_comes_first(monkeypatch):
  on(monkeypatch, 'gpu')
  calls = []

  def fused(q, k, v, mask):
    calls.append(mask)
    return q, jnp.ones((1, 1, 1, 1), bool)

  monkeypatch.setattr(kernels, 'fused', fused)
  x = array(B, 128, 4, 64)
  attend = functools.partial(kernels.attend, key_bias=None, mask=None, H=4)
  jax.eval_shape(attend, x, x, x)
  assert calls == [None]


# The lowering -----------------------------------------------------------------


def lowered(platform, name, *, dtype='bfloat16', mask=None, T=150, **fields):
  """The gradient of a layer for another platform, as text."""
  layer = attention.build(name, num_heads=4, dtype=dtype, **fields)
  x = jnp.zeros((B, T, 256), dtype)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)

  @jax.jit
  def grad(params, x):
    f = lambda params, x: layer.apply(params, x, mask=mask).sum()
    return jax.grad(f, (0, 1))(params, x)

  program = grad.trace(params, x).lower(lowering_platforms=(platform,))
  return program.as_text()


CALLS = {'tpu': ('tpu', '@tpu_custom_call'), 'cuda': ('gpu', '@__gpu$xla.gpu')}
SEEN = masks.Mask(
  causal=True,
  key_valid=np.ones((B, 150), bool),
  q_segments=np.zeros((B, 150), int),
)


@pytest.mark.parametrize('platform', CALLS)
@pytest.mark.parametrize(
  'name, case',
  [
    ('mha', dict(dtype='float32')),
    ('mha', dict(dtype='float32', precision='highest', mask=SEEN)),
    ('collab', dict(shared_dim=96)),
    ('collab', dict(shared_dim=96, mask=SEEN)),
    ('mhe_add', dict(mask=masks.Mask(causal=True))),  # shared scores
    ('mqa', dict(mask=SEEN)),
  ],
)
def test_layers_lower(monkeypatch, platform, name, case):
  """All of their kernels do, but for what is switched off."""
  if platform == 'cuda' and jaxlib.version.__version_info__ > (0, 10, 2):
    pytest.skip('this jaxlib compiles Triton as it lowers, on a GPU only')
  backend, call = CALLS[platform]
  on(monkeypatch, backend)
  kernels_run = 6 if name == 'mhe_add' else 3  # on both sides of the guard
  assert lowered(platform, name, **case).count(call) == kernels_run
  assert call not in lowered(platform, name, flash=False, **case)
