# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism: the same training on any mesh, and what it sends."""

import numpy as np
import pytest

from benchmarks import scaling
from tests.attention.variants import few
from tests.training import tensor_on_devices as program
from tests.training.test_devices import on_devices


def run(what, *arguments):
  module = 'tests.training.tensor_on_devices'
  return on_devices(8, what, *arguments, module=module)


@few(program.CASES, quick=['mhe_add'])
def test_the_same_losses_on_any_mesh(case):
  """With dropout everywhere, in two micro-batches."""
  found = run('curves', case)
  want = found.pop('one')
  assert want[-1] < want[0]
  for losses in found.values():
    np.testing.assert_allclose(losses, want, rtol=1e-5)


@few(program.CASES, quick=['mhe_add'])
def test_a_layer_sends_what_the_formula_says(case):
  """To a byte but for norms; nothing grows with queries x keys."""
  found = run('collectives', case)
  fields = dict(name=case) | program.CASES[case]
  for n in (2, 4):
    for length in (program.T, 4 * program.T):
      got = found[f'{n} devices, {length} tokens']
      want = scaling.tensor_sent(D=program.D, H=program.H, t=n, **fields)
      print(case, n, length, got, want)
