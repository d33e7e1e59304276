# SPDX-License-Identifier: Apache-2.0
"""An evaluation on any mesh: the same rows, each device with its share."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from collab.training import sharding
from tests import tiny
from tests.runtime.test_processes import environments, finish
from tests.training import evaluation_on_devices as part
from tests.training.test_devices import on_devices

MODULE = 'tests.training.evaluation_on_devices'
# Quick is runtime/test_processes.py, where the scores of two processes are
# those of one.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def one():
  """What one device finds, the JSON of `part.on`."""
  return json.loads(json.dumps(part.on(sharding.make_mesh())))


def check_found(got, want):
  """Tokens are equal, and NaN has its place; sums differ by their order."""
  for name, leaves in want['found'].items():
    for a, b in zip(got['found'][name], leaves, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize('fsdp', ['1', '4', '8'])
def test_eight_devices_share_the_rows(fsdp, one):
  """Each has an eighth of the FLOPs, and all together find the same."""
  eight = on_devices(8, fsdp, module=MODULE)[fsdp]
  check_found(eight, one)
  for name, whole in one['flops'].items():
    assert 8 * eight['flops'][name] == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize('mesh', ['1,4', '4,2'])
def test_devices_share_heads_and_vocabulary(mesh, one):
  """More FLOPs than an eighth, as what all heads share is computed by each.

  Not as many as if only rows were shared.
  """
  found = on_devices(8, mesh, module=MODULE)[mesh]
  check_found(found, one)
  tensor = int(mesh.partition(',')[2])
  for name, whole in one['flops'].items():
    assert 1 / 8 < found['flops'][name] / whole < 0.8 * tensor / 8


def test_two_processes_share_the_rows(one):
  """Four devices each, over which the parameters are split."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  ends = finish(
    [
      subprocess.Popen(
        [sys.executable, *tiny.WARNINGS, '-m', MODULE, '8'],
        cwd=tiny.ROOT,
        env=os.environ | e | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for e in environments(2)
    ]
  )
  assert [code for code, *_ in ends] == [0, 0], ends
  check_found(json.loads(ends[0][1].splitlines()[-1])['8'], one)
