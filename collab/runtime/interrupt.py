# SPDX-License-Identifier: Apache-2.0
"""Handles Ctrl-C: the first asks the run to save and stop, the second kills."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal

TOLD = b"""
Ctrl-C: this step is finished and saved, then the run stops. A second Ctrl-C
stops it at once; then it goes on from the checkpoint before.
"""


@contextlib.contextmanager
def at_once(clean: Callable[[], None]) -> Iterator[None]:
  """Exits at once on Ctrl-C, while there is nothing to save yet.

  A KeyboardInterrupt inside a library's callback would be lost (JAX has one in
  Python's garbage collection), and the run would continue.

  Args:
    clean: function that is called before the exit.
  """

  def stop(number, frame):
    clean()
    os.write(2, b'train.py: stopped by Ctrl-C.\n')
    os._exit(130)  # the exit code of shells

  before = signal.signal(signal.SIGINT, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def first_as_sigterm() -> Iterator[None]:
  """Turns the first Ctrl-C into SIGTERM, so that the loop saves and returns.

  The second one kills the process, which is safe because writes are atomic.

  Raises:
    KeyboardInterrupt: at the end, if there was a Ctrl-C, so that a script which
      started this run does not continue as if the run had finished.
  """
  got = []

  def stop(number, frame):
    got.append(number)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(2, TOLD)  # print is not reentrant
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.signal(signal.SIGINT, stop)
  try:
    yield
  finally:
    if not got:
      signal.signal(signal.SIGINT, before)
  if got:
    raise KeyboardInterrupt
