# SPDX-License-Identifier: Apache-2.0
"""The committed table of kernels is what is lowered, and nothing is naive."""

import re

import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import pytest

from benchmarks import kernels
from collab import attention

FEW = ('mhe_add',)


def committed():
  """{(a row's first six cells, variant)} of the committed table."""
  lines = kernels.PATH.read_text().splitlines()[2:]
  rows = [line.strip('| ').split(' | ') for line in lines]
  return {(*row[:-1], x) for row in rows for x in row[-1].split('; ')}


def test_the_committed_table_is_what_is_lowered():
  rows = kernels.found(FEW)
  lowered = {(*row, x) for row, variants in rows.items() for x in variants}
  assert lowered == {row for row in committed() if row[-1] in FEW}


def test_nothing_is_naive():
  rows = committed()
  assert {row[-1] for row in rows} == set(kernels.VARIANTS)
  assert not [row for row in rows if 'naive' in row]


@pytest.mark.slow
def test_the_table_of_every_variant():
  assert kernels.markdown(kernels.found()) == kernels.PATH.read_text()


@pytest.mark.parametrize('variant', ['mha', 'mhe_mul, rope'])
def test_cudnn_gets_the_window(variant):
  """Also beside values narrower than keys: forward and backward."""
  call = kernels.Call(True, ('window',), cross=False, dropout=False)
  for parts, window in ((('window',), kernels.WINDOW), ((), 0)):
    text = kernels.lowered(variant, call._replace(parts=parts), 'cuda')
    assert kernels.kernel(text, call, 'cuda') == 'cudnn'
    got = re.findall(r'sliding_window_length\\22: (\d+)', text)
    assert got == [str(window)] * 2


@pytest.mark.parametrize('platform', kernels.MACHINES)
def test_a_naive_program_is_found(platform):
  x = Shape((kernels.ROWS, kernels.T, kernels.H, 64), jnp.bfloat16)
  plain = lambda q: attention.kernels.grouped(q, q, q)[0].sum()
  traced = jax.jit(jax.grad(plain)).trace(x)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  call = kernels.Call(False, (), cross=False, dropout=False)
  assert kernels.kernel(text, call, platform) == 'naive'
