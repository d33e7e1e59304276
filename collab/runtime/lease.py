# SPDX-License-Identifier: Apache-2.0
"""Holds a workdir for one run, by a lock of the system on a file.

A bucket has no locks, so there it is an object that the run renews. Only the
run that wrote an object last can write it again: `buckets.swap`. No clocks are
compared: whoever wants the workdir looks whether the object is renewed, and
takes it once it was not for long enough.
"""

import atexit
from collections.abc import Callable
import contextlib
import fcntl
import os
import pathlib
import socket
import threading
import time
from typing import TYPE_CHECKING
import uuid

from absl import logging
import jax

from collab.io import atomic, buckets
from collab.runtime import processes

if TYPE_CHECKING:
  from etils import epath

RENEWED = 10.0  # seconds between two renewals
EXPIRES = 120.0  # seconds without one after which a run is dead


def lock(workdir: str | pathlib.Path) -> None:
  """Makes this process the only run in a workdir for its lifetime.

  Raises:
    ValueError: another process has the lock.
    OSError: the file cannot be written.
  """
  if jax.process_index() != 0:
    return
  path = buckets.at(workdir) / 'lock'
  if buckets.is_url(path):
    take(path)
    return
  # The system closes it. A link may have been made since `check_links`.
  file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    text = os.read(file, 200).decode(errors='replace')
    raise _used(path, text) from None
  except OSError as e:  # some network file systems have no locks
    told = '%s cannot be locked (%s): make sure that no other run uses it.'
    logging.warning(told, workdir, e.strerror)
  with atomic.naming(path):
    os.ftruncate(file, 0)
    holder = f'process {os.getpid()} on {socket.gethostname()}'
    os.write(file, f'{holder}\n{uuid.uuid4()}\n'.encode())
    os.fsync(file)  # other hosts look for it


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
