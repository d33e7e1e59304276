# SPDX-License-Identifier: Apache-2.0
"""One device and eight: the same training, and each other's checkpoints."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from collab.runtime import checkpoint, tree_table
from collab.training import sharding
from tests import tiny
from tests.few import few
from tests.training import model


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Losses on this device, and what the same program says of eight."""
  workdir = tmp_path_factory.mktemp('runs')
  losses, state, shapes, _ = model.curve(sharding.make_mesh())
  checkpoints = checkpoint.Checkpoints(workdir / 'one', keep=1)
  checkpoints.save(model.STEPS, state)
  checkpoints.close()
  eight = on_devices(8, workdir)
  assert eight['devices'] == 8
  return workdir, losses, state, shapes, eight


def on_devices(n, *arguments, module='tests.training.model'):
  """What a module prints as a process with n devices."""
  flags = (
    f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={n}'
  )
  done = subprocess.run(
    [sys.executable, *tiny.WARNINGS, '-m', module, *arguments],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_same_losses(runs):
  _, losses, _, _, eight = runs
  assert losses[-1] < 0.9 * losses[0]
  for name in ('fsdp=1', 'fsdp=2', 'fsdp=8'):
    np.testing.assert_allclose(eight['curves'][name], losses, rtol=1e-5)


def test_same_losses_accumulated(runs):
  parts = model.curve(sharding.make_mesh(), parts=2)[0]
  np.testing.assert_allclose(runs[-1]['curves']['2 parts'], parts, rtol=1e-5)


def test_state_is_split_by_fsdp(runs):
  shapes = [runs[-1][f'part of fsdp={n}'] for n in (1, 2, 8)]
  assert shapes == [[37, 128], [37, 64], [37, 16]]


def test_micro_batches_stay_on_their_device(runs):
  kinds = runs[-1]['kinds']
  assert kinds['fsdp=1'] == kinds['2 parts'] == ['all-reduce']


def test_one_device_to_eight(runs):
  expected = [model.STEPS, tree_table.checksums(runs[2])]
  for fsdp in (1, 2, 8):
    assert runs[-1][f'restored fsdp={fsdp}'] == expected


def test_eight_devices_to_one(runs):
  workdir, _, _, shapes, eight = runs
  checkpoints = checkpoint.Checkpoints(workdir / 'eight', keep=1)
  step, state = checkpoints.restore(shapes)
  checkpoints.close()
  assert step == model.STEPS
  assert tree_table.checksums(state) == eight['saved']


def test_checksums_of_many_leaves(runs):
  assert runs[-1]['many'] == tree_table.checksums(model.many(fsdp=1))


@few([1, 2, 8], [1], 'n')
def test_eight_devices_to_others(n, runs):
  """Bit for bit, however split before and after; then the same losses."""
  workdir, losses, *_, eight = runs
  found = model.rest(workdir) if n == 1 else on_devices(n, workdir, 'rest')
  splits = [k for k in (1, 2, 8) if n % k == 0]
  in_parts = model.go_on(workdir / 'half 1', sharding.make_mesh(), 3)[2]
  for saved in (1, 8):
    for fsdp in splits:
      for parts, expected in {1: losses[model.HALF :], 3: in_parts}.items():
        step, sums, got = found.pop(f'{saved} to {fsdp} in {parts}')
        assert step == model.HALF
        assert sums == eight['half'][str(saved)]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert found.pop(f'{saved} refused').startswith(
      f'{workdir}/half {saved}/checkpoints/{model.HALF} is of another model: '
      'params/layer_0/bias: expected float32[120], found float32[128]; params'
      '/layer_0/kernel: expected float32[37, 120], found float32[37, 128]; '
    )
  assert not found


def test_rows_that_do_not_divide(runs):
  assert runs[-1]['error'] == (
    'A batch of 9 rows does not divide over 8 devices; legal are multiples '
    'of 8.'
  )
