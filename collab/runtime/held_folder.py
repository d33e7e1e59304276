# SPDX-License-Identifier: Apache-2.0
"""A folder that is held open, to notice when it is deleted during a run."""

import contextlib
import os
import pathlib
import shutil
import time


class HeldFolder:
  """Makes a folder and holds it open.

  Until it is closed, a new folder of the same name cannot be taken for it.

  Raises:
    OSError: it cannot be made or read.
  """

  def __init__(self, path: pathlib.Path):
    path.mkdir(parents=True, exist_ok=True)
    self._path, self._file = path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)

  def gone(self) -> bool:
    """Whether it was deleted, even if another has its name now."""
    try:
      return not os.path.samestat(os.fstat(self._file), self._path.stat())
    except FileNotFoundError:
      return True

  def close(self, made_since: str):
    """Lets go of it; if it is gone, removes what a writer has made since.

    Args:
      made_since: name of what the writer may have made.
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
        with contextlib.suppress(OSError):  # it is not empty, or not there
          folder.rmdir()
      quiet = 0 if self._path.exists() else quiet + 1
      if quiet == 10:
        return
      time.sleep(0.1)  # writes that Orbax has given up end a little later
