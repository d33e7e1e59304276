# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file or folder is complete or absent, even after a kill."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
from pathlib import Path
import shutil
import socket
import tempfile
from typing import Any

from collab.io import buckets, json_text


@contextlib.contextmanager
def beside(path: str | Path) -> Iterator[Path]:
  """Yields a temporary path of a file or folder, then renames it to `path`.

  The temporary path is in a hidden folder beside `path`, which is removed at
  the end. If a process is killed, its folder is removed by the next process
  that writes there: each process locks its own folder, and the system releases
  the lock when the process dies. Folders of other hosts stay, because their
  locks may be invisible here. All stay where the file system has no locks.

  Raises:
    OSError: the folder of `path` does not exist, or cannot be written.
  """
  path = Path(path)
  ours = f'.collab.tmp-{socket.gethostname()}-'
  with contextlib.ExitStack() as stack:
    with locked(path.parent):  # no folder exists without its lock
      for left in path.parent.iterdir():
        if left.name.startswith(ours):
          _remove_unless_locked(left)
      folder = tempfile.mkdtemp(prefix=ours, dir=path.parent)
      stack.enter_context(locked(folder))
      stack.callback(shutil.rmtree, folder, ignore_errors=True)
    yield Path(folder) / path.name


def rename_unless_there(new: Path, path: Path) -> None:
  """Renames a new folder or file, unless another process has been first."""
  try:
    new.rename(path)
  except OSError:
    if not path.exists():
      raise


def _remove_unless_locked(folder):
  with contextlib.suppress(OSError), locked(folder, fcntl.LOCK_NB) as mine:
    if mine:
      shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: str | Path, flags: int = 0) -> Iterator[bool]:
  """Locks a folder; yields whether this process alone has the lock."""
  file = os.open(folder, os.O_RDONLY)
  try:
    locked = False
    with contextlib.suppress(OSError):  # it is another's, or there are no locks
      fcntl.flock(file, fcntl.LOCK_EX | flags)
      locked = True
    yield locked
  finally:
    os.close(file)


def save_json(path: str | Path, value: Any) -> None:
  """Writes `value` as JSON atomically."""
  write_text(path, json_text.to_json(value, indent=2) + '\n')


def write_text(path: str | Path, text: str) -> None:
  """Writes a text file or object: readers see the old or the new one.

  Raises:
    OSError: the file cannot be written; the old one stays, and no temporary
      file.
  """
  if buckets.is_url(path):
    buckets.at(path).write_text(text)
    return
  with naming(path), beside(path) as new:
    with new.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    new.replace(path)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
  """Adds a path to an OSError, because that of a failed write has none."""
  try:
    yield
  except OSError as e:
    raise OSError(e.errno, e.strerror, str(path)) from e
