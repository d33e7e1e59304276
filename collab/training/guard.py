# SPDX-License-Identifier: Apache-2.0
"""What can happen to a run: preemption, and numbers that are none."""

import contextlib
import signal

import numpy as np


@contextlib.contextmanager
def stop_signal():
  """A list that SIGTERM fills, for the loop to save and return."""
  got = []
  before = signal.signal(signal.SIGTERM, lambda *signals: got.append(signals))
  try:
    yield got
  finally:
    signal.signal(signal.SIGTERM, before)


def check_finite(losses, step, workdir):
  """Refuses losses that are not finite.

  Args:
    losses: of the steps that end with `step`.
    step: number of steps done.
    workdir: of the run, for the message.

  Raises:
    FloatingPointError: names the first such step.
  """
  bad = np.flatnonzero(~np.isfinite(losses))
  if len(bad):
    first = step - len(losses) + int(bad[0]) + 1
    raise FloatingPointError(
      f'The loss is {losses[bad[0]]} at step {first}; the checkpoints in '
      f'{workdir} are from before it.'
    )
