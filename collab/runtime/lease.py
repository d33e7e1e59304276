# SPDX-License-Identifier: Apache-2.0
"""Holds a workdir in a bucket for one run, by an object that is renewed.

Only the run that wrote an object last can write it again: `buckets.swap`. No
clocks are compared: whoever wants the workdir looks whether the object is
renewed, and takes it once it was not for long enough.
"""

import atexit
from collections.abc import Callable
import contextlib
import os
import pathlib
import socket
import threading
import time
from typing import TYPE_CHECKING
import uuid

from absl import logging

from collab.io import buckets
from collab.runtime import processes

if TYPE_CHECKING:
  from etils import epath

RENEWED = 10.0  # seconds between two renewals
EXPIRES = 120.0  # seconds without one after which a run is dead


def take(path: 'epath.Path') -> Callable[[], None]:
  """Takes an object for the lifetime of this process, or waits for its end.

  Args:
    path: of the object, in the workdir.

  Returns:
    A function that gives it back, which the end of the process does as well.

  Raises:
    ValueError: another run renews it; the message says which.
  """
  text, generation = buckets.read(path)
  if text and not _ended(text):
    generation = _wait(path, text, generation)
  mine = f'process {os.getpid()} on {socket.gethostname()}\n{_machine()}\n'
  mine += f'{uuid.uuid4()}\n'
  new = buckets.swap(path, mine, generation)
  if new is None:
    raise _used(path, buckets.read(path)[0])
  over = threading.Event()
  thread = threading.Thread(
    target=_renew, args=[path, mine, new, over], daemon=True
  )
  thread.start()

  def release():
    over.set()
    thread.join(buckets.PATIENCE)

  atexit.register(release)
  return release


def _used(path, text):
  holder = text.partition('\n')[0] or 'another process'
  return ValueError(
    f'{path.parent} is in use by {holder}; expected one run at a time.'
  )


def _wait(path, text, generation):
  """Waits for a run that may be dead; returns the generation that it left."""
  told = '%s was held by %s: waiting %d s for a sign of it.'
  logging.warning(told, path.parent, text.partition('\n')[0], EXPIRES)
  limit = time.monotonic() + EXPIRES
  while time.monotonic() < limit:
    time.sleep(RENEWED / 10)
    now, new = buckets.read(path)
    if not now:  # it has ended
      return new
    if new != generation:
      raise _used(path, now)
  return generation


def _machine():
  """Names this boot of this machine, and the space of its process numbers."""
  with contextlib.suppress(OSError):  # there is no /proc
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  return ''


def _ended(text):
  """Whether the holder was a process of this machine that is no more."""
  holder, machine, *_ = [*text.split('\n'), '']
  if not machine or machine != _machine():
    return False
  return not pathlib.Path('/proc', holder.split()[1]).exists()


def _renew(path, mine, generation, over):
  """Renews the object until the end.

  If another run has it, this process ends at once, so that two runs never write
  to one workdir.
  """
  last = time.monotonic()
  while not over.wait(RENEWED):
    begun = time.monotonic()
    try:
      generation = buckets.swap(path, mine, generation)
    except Exception as e:  # of many types, as the network has many faults
      if time.monotonic() - last > EXPIRES / 2:  # not to be late next time
        processes.end(f'{path} cannot be renewed: {" ".join(str(e).split())}')
      continue
    if generation is None:
      processes.end(
        f'{path.parent} was taken by another run, as this one was silent.'
      )
    last = begun
  with contextlib.suppress(Exception):  # then it expires
    buckets.swap(path, '', generation)
