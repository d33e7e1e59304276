# SPDX-License-Identifier: Apache-2.0
"""Each of several devices runs the kernels on its own examples."""

import pytest

from tests.training.test_devices import on_devices


@pytest.mark.parametrize(
  'name, calls',
  [('mha', 3), pytest.param('mhe_add', 6, marks=pytest.mark.slow)],
)
def test_the_batch_stays_split(name, calls):
  """The gradient of one device, and no example goes to another one."""
  found = on_devices(8, name, module='tests.attention.flash_on_devices')
  assert found.pop('apart') < 1e-5
  assert found == dict(devices=8, calls=calls, split=True, gathers=[])
