# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are whole or absent, whoever is killed."""

import contextlib
import fcntl
import os
from pathlib import Path
import shutil
import socket
import tempfile

from collab.io import json_text


@contextlib.contextmanager
def beside(path):
  """A path to write, file or folder, from which to move to `path`.

  It lies in a hidden folder beside `path`, which goes at the end. That of a
  killed process goes when the next one writes there: each holds a lock of its
  own, which the system takes away when it dies. Nothing is removed of another
  host, whose locks may not be seen from here, nor where a file system has no
  locks.

  Raises:
    OSError: there is no folder for `path`, or it cannot be written.
  """
  path = Path(path)
  ours = f'.collab.tmp-{socket.gethostname()}-'
  with contextlib.ExitStack() as stack:
    with _locked(path.parent):  # so that none is there without its lock
      for left in path.parent.iterdir():
        if left.name.startswith(ours):
          _remove_unless_locked(left)
      folder = tempfile.mkdtemp(prefix=ours, dir=path.parent)
      stack.enter_context(_locked(folder))
      stack.callback(shutil.rmtree, folder, ignore_errors=True)
    yield Path(folder) / path.name


def _remove_unless_locked(folder):
  with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_NB) as mine:
    if mine:
      shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder, flags=0):
  """Whether a folder is locked by this process alone, until the end."""
  file = os.open(folder, os.O_RDONLY)
  try:
    locked = False
    with contextlib.suppress(OSError):  # another's, or there are no locks
      fcntl.flock(file, fcntl.LOCK_EX | flags)
      locked = True
    yield locked
  finally:
    os.close(file)


def save_json(path, value):
  """Writes `value` as JSON, all of it or nothing."""
  write_text(path, json_text.to_json(value, indent=2) + '\n')


def write_text(path, text):
  """Writes a file so that it is at all times the old or the new one.

  Raises:
    OSError: it cannot be written; the old one stays, and nothing else does.
  """
  with naming(path), beside(path) as new:
    with new.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    new.replace(path)


@contextlib.contextmanager
def naming(path):
  """An OSError within names this path; that of a failed write names none."""
  try:
    yield
  except OSError as e:
    raise OSError(e.errno, e.strerror, str(path)) from e
