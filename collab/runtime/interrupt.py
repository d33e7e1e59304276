# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C: in training a request to save and stop, the second an order."""

import contextlib
import os
import signal

TOLD = b"""
Ctrl-C: this step is finished and saved, then the run stops. A second Ctrl-C
stops it at once; then it goes on from the checkpoint before.
"""


@contextlib.contextmanager
def at_once(clean):
  """Makes Ctrl-C the end of the process: before there is anything to save.

  No KeyboardInterrupt, which is lost where it comes within a callback of a
  library (JAX has one in Python's garbage collection), and the run goes on.

  Args:
    clean: called before.
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
