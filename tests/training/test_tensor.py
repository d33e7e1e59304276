# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism: the same training on any mesh, and what it sends."""

import numpy as np
import pytest

from benchmarks import scaling
from tests.few import few
from tests.training import tensor_on_devices as program
from tests.training.test_devices import on_devices


def run(what, *arguments):
  module = 'tests.training.tensor_on_devices'
  return on_devices(8, what, *arguments, module=module)


ALL, TWO = tuple(program.MESHES), ('one', 'fsdp=2, tensor=2')


@few(
  [*((case, ALL) for case in program.CASES), ('mhe_add', TWO)],
  [('mhe_add', TWO)],
  'case, names',
)
def test_the_same_losses_on_any_mesh(case, names):
  """With dropout everywhere, in two micro-batches."""
  found = run('curves', case, *names)
  want = found.pop('one')
  assert len(want) == program.STEPS
  assert ('one', *found) == names
  for losses in found.values():
    np.testing.assert_allclose(losses, want, rtol=1e-5)


# XLA sends less for gla_wide: of two groups, half of the devices take each.
@few([x for x in program.CASES if x != 'gla_wide'], ['mhe_add'])
def test_a_layer_sends_what_the_formula_says(case):
  """To a byte, but for norms. So nothing grows with queries x keys.

  All else sends the embedding forward and the logits' gradient backward, D
  numbers a token each, and a few sums over the vocabulary, never logits.
  """
  D, H = program.D, program.H
  fields = dict(name=case) | program.CASES[case]
  found = run('collectives', case)
  for (t, length), (layer, rest, kinds) in zip(
    program.LAYOUTS, found, strict=True
  ):
    token = 4 * program.ROWS * length
    if 'length' in fields:  # of fewer tokens the first rows take part
      fields['length'] = length
    sums = scaling.tensor_sent(D=D, H=H, t=t, **fields)
    want = token * (sums['forward'] + sums['backward']) + 4 * sums['once']
    norms = 4 * 2 * 30  # at most so many parameters
    assert 0 <= layer - want < norms
    assert 0 <= rest - token * 2 * D < token * 8 + norms
    # Of el the gradient of keys; of an encoder, the bias of its head, once.
    gathers = {'all-gather'} if case in ('el', 'linformer') else set()
    assert set(kinds) == {'all-reduce'} | gathers


@pytest.mark.slow
def test_checkpoints_open_on_any_mesh(tmp_path):
  """Bit for bit, whatever split them before and after."""
  found = run('moved', tmp_path)
  assert found['fsdp=2, tensor=2']['spec'] == ['fsdp', 'tensor']
  for name in program.SAVED:
    for other in program.SAVED:
      assert found[name][other] == found[name]['saved']


def test_a_run_begins_with_parameters_that_are_split(tmp_path):
  """Each is read to where it stays, not to one device first."""
  want = dict(placed=True, same=True, kernel=['fsdp', 'tensor'])
  assert run('begun', tmp_path) == want


@pytest.mark.slow
def test_fused_kernels_run_on_each_device_for_its_heads():
  """Four of eight heads, and one of two key heads, of a row; T is padded."""
  found = run('fused', 'gqa_few')
  assert found == dict(tpu=['4x128x8'], cuda=['1x112x4x8'])


@pytest.mark.slow
def test_each_head_drops_its_own_weights():
  assert run('head_dropout', 'mha') < 1e-5
