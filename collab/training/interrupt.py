# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C: the first is a request to save and stop, the second an order."""

import contextlib
import os
import signal

TOLD = b"""
Ctrl-C: this step is finished and saved, then the run stops. A second Ctrl-C
stops it at once; then it goes on from the checkpoint before.
"""


@contextlib.contextmanager
def first_as_sigterm():
  """Makes the first Ctrl-C a SIGTERM, for which the loop saves and returns.

  The second kills the process, from here on to its end: what is on disk is
  whole at all times.

  Raises:
    KeyboardInterrupt: at the end, if there was one: a script that started this
      run should not go on as if it were done.
  """
  got = []

  def stop(number, frame):
    got.append(number)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(2, TOLD)  # print must not be called within itself
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.signal(signal.SIGINT, stop)
  try:
    yield
  finally:
    if not got:
      signal.signal(signal.SIGINT, before)
  if got:
    raise KeyboardInterrupt
