# SPDX-License-Identifier: Apache-2.0
"""Which kernel a call gets, and what it is told where it may not have one."""

import jax
from jax import ShapeDtypeStruct as Shape
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import choice, masks
from collab.attention.target import Target, lowering_for, target

AMPERE = Target('cuda', (8, 0), 91002)
HOPPER = Target('cuda', (9, 0), 91002)
TPU = Target('tpu')
CPU = Target('cpu')
B, T = 2, 128
IDS = np.zeros((B, T), int)


def call(
  T=T, S=None, H=12, Gq=12, Gk=12, Gv=12, K=64, V=64, dtype='bfloat16',
  bias=False, rate=0.0, B=B, soft_cap=None, **parts,
):  # fmt: skip
  S = T if S is None else S
  mask = masks.Mask(**parts) if parts else None
  if 'q_segments' in parts:
    mask = mask.replace(kv_segments=parts['q_segments'])
  shapes = (B, T, Gq, K), (B, S, Gk, K), (B, S, Gv, V)
  q, k, v = (Shape(shape, jnp.dtype(dtype)) for shape in shapes)
  key_bias = Shape((B, S, H), jnp.dtype(dtype)) if bias else None
  return choice.Call(q, k, v, key_bias, mask, H, rate, soft_cap)


ADD = dict(Gq=1, Gk=1, Gv=1, bias=True)
WIDE = dict(Gk=1, K=384, bias=True)
CASES = [
  (HOPPER, dict(), 'cudnn'),
  (AMPERE, dict(causal=True), 'cudnn'),
  (HOPPER, dict(key_valid=IDS == 0, q_segments=IDS), 'cudnn'),
  (HOPPER, dict(Gk=1, K=192, bias=True), 'cudnn'),
  (AMPERE, dict(Gk=1, K=192, bias=True), 'blocks'),
  (HOPPER, WIDE, 'blocks'),
  (TPU, WIDE, 'splash'),
  (HOPPER, dict(dtype='float32'), 'blocks'),
  (HOPPER, dict(dtype='float16'), 'cudnn'),
  (TPU, dict(dtype='float16'), 'blocks'),
  (TPU, dict(causal=True, S=200), 'splash'),
  (HOPPER, dict(causal=True, S=200), 'blocks'),
  (HOPPER, dict(S=200), 'cudnn'),
  (HOPPER, dict(T=1), 'blocks'),
  (HOPPER, dict(rate=0.1), 'blocks'),
  (TPU, dict(rate=0.1), 'blocks'),
  (HOPPER, dict(dense=IDS[:, None, None] == 0), 'blocks'),
  (TPU, dict(causal=True, q_positions=IDS), 'blocks'),
  (Target('rocm'), dict(), 'blocks'),
  (CPU, dict(), 'blocks'),
  *((machine, ADD, 'shared') for machine in (CPU, HOPPER, TPU)),
  (CPU, ADD | dict(T=1), 'blocks'),
  (CPU, ADD | dict(causal=True, window=9), 'shared'),
  (CPU, ADD | dict(soft_cap=30.0), 'blocks'),
  (TPU, dict(soft_cap=30.0), 'splash'),
  (HOPPER, dict(soft_cap=30.0), 'blocks'),
  (TPU, dict(causal=True, window=9), 'splash'),
  (TPU, dict(causal=True, window=9, T=200, S=128), 'blocks'),
  (TPU, dict(causal=True, window=9, q_segments=IDS), 'blocks'),
  (HOPPER, dict(causal=True, window=9), 'cudnn'),
  (HOPPER, dict(causal=True, window=9, key_valid=IDS == 0), 'blocks'),
  (Target('cuda', (9, 0), 90100), dict(causal=True, window=9), 'blocks'),
  (TPU, dict(causal=True, offset=9), 'blocks'),
]


@pytest.mark.parametrize('machine, fields, kernel', CASES)
def test_the_table(machine, fields, kernel):
  assert choice.choose(call(**fields), machine) == kernel


@pytest.mark.parametrize('machine, fields, kernel', CASES)
def test_xla_is_never_refused(machine, fields, kernel):
  got = choice.choose(call(**fields), machine, 'xla')
  assert got == (kernel if kernel in ('shared', 'blocks') else 'blocks')


@pytest.mark.parametrize(
  'machine, fields, words',
  [
    (HOPPER, WIDE, 'keys with their bias and mask are 392 wide, over 256'),
    (AMPERE, dict(K=192), 'keys .* are 192 wide, over 128'),
    (HOPPER, dict(dtype='float32'), 'dtype is float32, neither bfloat16 nor'),
    (CPU, dict(), 'the platform is cpu, not cuda'),
    (HOPPER, dict(rate=0.1), 'its weights are dropped'),
    (Target('cuda', (9, 0)), dict(), 'cuDNN is not installed'),
    (Target('cuda', (7, 5), 91002), dict(), r'\(7, 5\), below \(8, 0\)'),
    (Target('cuda', (10, 3), 91002), dict(), 'needs cuDNN 9.11, got 91002'),
    (HOPPER, dict(T=8), 'fewer than 64 queries or keys'),
    (HOPPER, dict(causal=True, S=200), 'causal with other numbers of'),
    (HOPPER, dict(causal=True, q_positions=IDS), 'has positions of queries'),
    (HOPPER, dict(causal=True, offset=9), 'queries begin at a later key'),
    (
      HOPPER,
      dict(causal=True, window=9, q_segments=IDS),
      'its mask has a window with padding or segments',
    ),
    (
      Target('cuda', (9, 0), 90100),
      dict(causal=True, window=9),
      'a window, which needs cuDNN 9.2, got 90100',
    ),
    (HOPPER, dict(soft_cap=30.0), 'its scores have a soft cap'),
  ],
)
def test_a_kernel_that_is_asked_for_says_why_not(machine, fields, words):
  with pytest.raises(ValueError, match=f"implementation='cudnn' .*{words}"):
    choice.choose(call(**fields), machine, 'cudnn')


def test_an_unknown_implementation_is_told_what_there_is():
  with pytest.raises(ValueError, match=r"'flash'; expected .*'xla', 'cudnn'"):
    attention.build('mha', num_heads=2, implementation='flash')


def test_what_is_demanded_is_not_passed_over():
  """Parameters are made anyway, and tokens decoded."""
  layer = attention.build('mha', num_heads=2, implementation='cudnn')
  x = jnp.ones((1, 3, 4))
  params = layer.init(jax.random.key(0), x)
  with pytest.raises(ValueError, match='does not take this call'):
    layer.apply(params, x)
  with pytest.raises(ValueError, match="'cudnn' keeps no weights"):
    layer.apply(params, x, sow_weights=True, mutable=['intermediates'])
  decoder = layer.clone(decode=True)
  cache = decoder.init(jax.random.key(0), x)['cache']
  decoder.apply({**params, 'cache': cache}, x[:, :1], mutable=['cache'])


def test_open_sizes_are_left_to_xla():
  b, t = export.symbolic_shape('b, t')
  for machine in (HOPPER, TPU):
    for sizes in (dict(B=b, T=t), dict(B=b), dict(T=t)):
      assert choice.choose(call(**sizes), machine) == 'blocks'


def test_a_program_is_lowered_for_another_machine():
  """And the choice is this machine's again afterwards."""
  here = target()
  layer = attention.build('mha', num_heads=2, dtype=jnp.bfloat16)
  x = Shape((1, 128, 32), jnp.float32)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  with lowering_for(TPU):
    traced = jax.jit(layer.apply).trace(params, x)
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    with lowering_for(HOPPER):
      assert target() == HOPPER
    assert target() == TPU
  assert 'tpu_custom_call' in text
  assert target() == here
