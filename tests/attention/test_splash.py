# SPDX-License-Identifier: Apache-2.0
"""Splash attention, in Pallas' interpreter, is the plain formula."""

import jax
import numpy as np
import pytest

from collab.attention import kernels, masks, splash
from tests.attention.test_kernels import problem
from tests.attention.variants import close
from tests.training.test_devices import on_devices

B, H = 2, 6
RNG = np.random.default_rng(6)


def segments(n):
  return np.sort(RNG.integers(0, 4, (B, n)), 1)


@pytest.mark.parametrize(
  'groups, bias, parts, T, S',
  [
    pytest.param(
      (6, 6, 6),
      False,
      dict(),
      131,
      131,
      id='two blocks',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      (1, 2, 6),
      False,
      dict(causal=True),
      67,
      67,
      id='causal',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      (6, 2, 2), False, dict(causal=True, window=30), 131, 140, id='window'
    ),
    pytest.param((6, 1, 1), True, dict(soft_cap=1.7), 67, 71, id='soft cap'),
    pytest.param(
      (6, 1, 6),
      True,
      dict(key_valid=RNG.random((B, 71)) < 0.5),
      67,
      71,
      id='bias',
    ),
    pytest.param(
      (6, 1, 1),
      False,
      dict(
        causal=True,
        q_segments=segments(67),
        kv_segments=segments(67) + 1,
        key_valid=RNG.random((1, 67)) < 0.8,
      ),
      67,
      67,
      id='rows without keys',
    ),
  ],
)
def test_values_and_gradients(groups, bias, parts, T, S):
  args, w = problem(*groups, bias=bias, H=H, T=T, S=S, K=24, V=8)
  parts = dict(soft_cap=None) | parts
  cap = dict(soft_cap=parts.pop('soft_cap'))
  mask = masks.check(masks.Mask(**parts), (B,), H, T, S)
  args = {'key_bias': None} | args

  @jax.jit
  def run(args):
    def loss(args, kernel, **how):
      o, alive = kernel(**args, mask=mask, **cap, **how)
      return (o * w).sum(), o

    ours = jax.grad(loss, has_aux=True)(args, splash.attend, interpret=True)
    return ours, jax.grad(loss, has_aux=True)(args, kernels.grouped)

  (grads, o), (want, plain) = run(args)
  close(o, plain)
  jax.tree.map(close, grads, want)


def test_each_device_has_its_own_examples():
  """The gradient of one device, and no example goes to another one."""
  found = on_devices(8, module='tests.attention.splash_on_devices')
  assert found.pop('apart') < 1e-5
  assert found == dict(devices=8, split=True, gathers=[])
