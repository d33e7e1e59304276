# SPDX-License-Identifier: Apache-2.0
"""Files that this machine keeps: what is mapped, and copies from buckets."""

import hashlib
import os
from pathlib import Path

from collab.io import atomic, buckets


def kept() -> Path:
  """The folder of what this machine keeps for all runs."""
  home = os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache'))
  return Path(home, 'collab')


def folder(given: str, workdir: 'str | os.PathLike', name: str) -> str:
  """Chooses a folder of files that are mapped, and so on this machine.

  Args:
    given: data.folder of a config, '' for workdir/name.
    workdir: of the run; if it is in a bucket, all runs here share a folder.
    name: of the folder.

  Raises:
    ValueError: `given` is in a bucket.
  """
  if given and buckets.is_url(given):
    raise ValueError(
      f'data.folder={given}: its files are mapped into memory; expected a '
      'folder of this machine.'
    )
  if not given and buckets.is_url(workdir):
    return str(kept() / name)
  return given or os.path.join(workdir, name)


def fetched(path: 'str | os.PathLike') -> Path:
  """Returns a path as it is, and for a URL that of a copy on this machine.

  The copy is made once for the generations of its objects.

  Raises:
    ValueError: there is nothing in the bucket, or it is being written.
  """
  if not buckets.is_url(path):
    return Path(path)
  source = buckets.at(path)
  if not (versions := buckets.versions(path)):
    raise ValueError(f'{path}: the bucket has no such object or folder.')
  key = hashlib.sha256(f'{path} {versions}'.encode()).hexdigest()[:16]
  copy = kept() / 'buckets' / key / source.name
  if not copy.exists():
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomic.beside(copy) as new:
      buckets.download(source, new)
      if buckets.versions(path) != versions:
        raise ValueError(f'{path} has changed while it was copied from there.')
      atomic.rename_unless_there(new, copy)
  return copy
