# SPDX-License-Identifier: Apache-2.0
"""Derivatives of derivatives, as Hessians and meta-learning need them.

In float64: in float32 the plain formula, which the kernels are compared with,
is farther from the truth than they are.
"""

import jax
import numpy as np
import pytest

from collab import attention
from collab.attention import kernels
from tests.attention import variants as V
from tests.attention.test_kernels import EVERY_KIND, SHARED, cut, problem
from tests.few import few


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64():
    yield


def double(tree):
  return jax.tree.map(lambda x: np.asarray(x, 'float64'), tree)


def near(got, want):
  """Each leaf, but for the rounding of what is zero by construction."""
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))

  def compare(got, want):
    error = np.abs(got - want).max()
    assert error <= 1e-13 * np.abs(want).max() + 1e-14 * largest

  jax.tree.map(compare, got, want)


def products(loss, at, along):
  """Hessian times vector: reverse over reverse, and forward over reverse."""
  grad = jax.grad(loss)
  dot = lambda x: sum(
    (a * b).sum()
    for a, b in zip(
      jax.tree.leaves(grad(x)), jax.tree.leaves(along), strict=True
    )
  )
  return jax.grad(dot)(at), jax.jvp(grad, (at,), (along,))[1]


def directions(tree):
  rng = np.random.default_rng(3)
  return double(jax.tree.map(lambda x: V.normal(rng, *np.shape(x)), tree))


@few(V.NAMES, ['mhe_add'])
def test_every_variant(case):
  """The kernel of the layer, and autodiff of the plain formula."""
  layer = V.build(case)
  at = double(dict(params=V.params(case), x=V.inputs(case)[0]))
  valid = np.broadcast_to(np.arange(V.T) != 3, (V.B, V.T))
  mask = attention.Mask(causal=True, key_valid=valid)
  sow = dict(sow_weights=True, mutable=['intermediates'])

  def loss(at, **call):
    o = layer.apply({'params': at['params']}, at['x'], mask=mask, **call)
    return (jax.tree.leaves(o)[0] ** 2).sum()

  @jax.jit
  def run(at, along):
    plain = lambda at: loss(at, **sow)
    return products(loss, at, along), products(plain, at, along)[0]

  (backwards, forwards), want = run(at, directions(at))
  near(backwards, want)
  near(forwards, want)


@few(['blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
@few(['all', 'none'], ['all'], 'kind')
def test_every_block_and_rows_without_keys(kernel, kind):
  """Blocks that do not fill up; both sides of the guard; dropout."""
  args, w = double(problem(**SHARED))
  mask, _ = cut(EVERY_KIND[kind])
  key = jax.random.key(4)

  def loss(args, kernel, **static):
    o, alive = kernel(**args, mask=mask, rate=0.3, key=key, **static)
    return (o**2 * w).sum()

  @jax.jit
  def run(args, along):
    cut = lambda args: loss(args, getattr(kernels, kernel), block=3)
    plain = lambda args: loss(args, kernels.grouped)
    return products(cut, args, along), products(plain, args, along)[0]

  for bias_range in (1, 80):
    at = args | dict(key_bias=args['key_bias'] * (bias_range / 4))
    (backwards, forwards), want = run(at, directions(at))
    near(backwards, want)
    near(forwards, want)
