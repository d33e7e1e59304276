# SPDX-License-Identifier: Apache-2.0
"""Flags of the training step: known to this XLA, and the user's win.

The CPU's compiler knows the flags of GPUs, which are XLA's own, and refuses
those of TPUs, which are libtpu's.
"""

import jax
import jax.numpy as jnp
import pytest

from collab.runtime import xla_flags

GPU, TPU = xla_flags.PRESETS['gpu'], xla_flags.PRESETS['tpu']
LATER = {former: name for name, former in xla_flags.FORMER.items()}


def test_those_of_gpus_are_known(caplog):
  """Each by its name or its former one, and none is warned of."""
  found = xla_flags.preset('gpu', {})
  assert [LATER.get(name, name) for name in found] == list(GPU)
  for name, value in found.items():
    assert value == (True if name in LATER else GPU[name])
  assert not caplog.messages
  step = jax.jit(lambda x: x + 1, compiler_options=found)
  assert step(jnp.float32(1)) == 2


def test_a_cpu_has_none():
  assert xla_flags.preset('cpu', {}) == {}


@pytest.mark.parametrize('variable', ['XLA_FLAGS', 'LIBTPU_INIT_ARGS'])
@pytest.mark.parametrize('name', [*GPU, *LATER])
def test_the_user_wins(name, variable):
  environ = {variable: f'--xla_dump_to=x --{name}=false'}
  found = xla_flags.preset('gpu', environ)
  want = [x for x in GPU if x != LATER.get(name, name)]
  assert [LATER.get(x, x) for x in found] == want


def test_unknown_ones_are_named_and_left_out(caplog):
  assert xla_flags.preset('tpu', {}) == {}
  assert len(caplog.messages) == len(TPU)
  for name, told in zip(TPU, caplog.messages, strict=True):
    assert told.startswith(f"{name} is left out of the step's flags")
    assert '\n' not in told
