# SPDX-License-Identifier: Apache-2.0
"""Holds a folder open, to notice when it is deleted during a run."""

import contextlib
import os
import pathlib
import shutil
import time


class HeldFolder:
  """Creates a folder and holds it open.

  Until it is closed, a new folder of the same name is not mistaken for it.

  Raises:
    OSError: the folder cannot be created or read.
  """

  def __init__(self, path: pathlib.Path):
    path.mkdir(parents=True, exist_ok=True)
    self._path, self._file = path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)

  def gone(self) -> bool:
    """Returns whether it was deleted, even if a new folder has its name."""
    try:
      return not os.path.samestat(os.fstat(self._file), self._path.stat())
    except FileNotFoundError:
      return True

  def close(self, made_since: str) -> None:
    """Closes the folder; if it was deleted, removes what a writer made since.

    Args:
      made_since: name of what the writer may have created.
    """
    if self.gone():
      self._remove(made_since)
    os.close(self._file)

  def _remove(self, name):
    quiet = 0
    for _ in range(100):
      for path in [self._path / name, *self._path.glob(f'{name}.*')]:
        shutil.rmtree(path, ignore_errors=True)
      for folder in (self._path, self._path.parent):
        with contextlib.suppress(OSError):  # it is not empty, or does not exist
          folder.rmdir()
      quiet = 0 if self._path.exists() else quiet + 1
      if quiet == 10:
        return
      time.sleep(0.1)  # writes that Orbax has abandoned end a little later
