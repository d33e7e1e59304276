# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C does: first it asks training to save and stop, then it kills."""

from collections.abc import Callable
import contextlib
import os
import signal

TOLD = b"""
Ctrl-C: this step is finished and saved, then the run stops. A second Ctrl-C
stops it at once; then it goes on from the checkpoint before.
"""


@contextlib.contextmanager
def at_once(clean: Callable[[], None]):
  """Ends the process at Ctrl-C, while there is nothing to save yet.

  A KeyboardInterrupt would be lost inside a callback of a library (JAX has one
  in Python's garbage collection), and the run would go on.

  Args:
    clean: called before the end.
  """

  def stop(number, frame):
    clean()
    os.write(2, b'train.py: stopped by Ctrl-C.\n')
    os._exit(130)  # as shells have it

  before = signal.signal(signal.SIGINT, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def first_as_sigterm():
  """Turns the first Ctrl-C into SIGTERM, at which the loop saves and returns.

  The second one kills the process, which is safe: files are whole at all times.

  Raises:
    KeyboardInterrupt: at the end, if there was a Ctrl-C, so that a script which
      started this run does not take it for done.
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
