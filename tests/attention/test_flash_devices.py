# SPDX-License-Identifier: Apache-2.0
"""Each of several devices runs the kernels on its own examples."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize('name, calls', [('mha', 3), ('mhe_add', 6)])
def test_the_batch_stays_split(name, calls):
  """The gradient of one device, and no example goes to another one."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-m', 'tests.attention.flash_on_devices']
    + [name],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found.pop('apart') < 1e-5
  assert found == dict(devices=8, calls=calls, split=True, gathers=[])
