# SPDX-License-Identifier: Apache-2.0
"""Files with checksums, so that damage is noticed when they are read.

A JSON value is sealed with its CRC-32. A folder is sealed by content.json,
which has the size and the CRC-32 of each file, and other facts from its writer.
"""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
from typing import Any
import zlib

from collab.io import atomic, json_text


def seal(name: str, value: Any) -> dict:
  """Makes {name: value, 'crc32': its checksum}, to be written as JSON."""
  return {name: value, 'crc32': _crc32(value)}


def unseal(name: str, sealed: dict) -> Any:
  """Returns the sealed value; an OSError if its checksum differs."""
  if _crc32(sealed[name]) != sealed['crc32']:
    raise OSError(f'checksum of the {name} differs')
  return sealed[name]


def folder(place: Path, fill: Callable, read: Callable, *inputs: Any) -> Any:
  """Reads a sealed folder, and makes it if it is missing or damaged.

  The folder is filled under another name, sealed and renamed. So a folder with
  the right name is complete, even if a process was killed. Of processes that
  make it at once the first one's stays.

  Args:
    place: path of the folder.
    fill: function of an empty folder and of the inputs. It writes files there
      and returns a dict with further facts for content.json.
    read: function of the folder and of the dict in content.json.
    *inputs: arguments for `fill`.

  Returns:
    The result of `read`.

  Raises:
    ValueError: the folder cannot be written.
  """
  if place.exists():
    try:
      return read(place, content(place))
    except (OSError, ValueError, LookupError, TypeError) as error:
      print(f'The cache {place} is damaged ({error}): making it anew.')
      shutil.rmtree(place, ignore_errors=True)
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic.beside(place) as new:
      new.mkdir()
      stated = fill(new, *inputs)
      files = {p.name: _checksum(p) for p in sorted(new.iterdir())}
      sealed = seal('content', dict(stated, files=files))
      (new / 'content.json').write_text(json.dumps(sealed, indent=2))
      atomic.rename_unless_there(new, place)
    return read(place, content(place))
  except OSError as error:
    raise ValueError(f'Cannot write the cache {place}: {error}') from error


def content(place: Path) -> dict:
  """Returns the dict in content.json; an OSError if a file differs from it."""
  text = (place / 'content.json').read_text()
  found = unseal('content', json_text.parse(text))
  for name, wanted in found['files'].items():
    if (got := _checksum(place / name)) != wanted:
      raise OSError(f'{name} has bytes and checksum {got}, expected {wanted}')
  return found


def _crc32(value):
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _checksum(path):
  """Returns [size, CRC-32] of a file."""
  size, crc = 0, 0
  with open(path, 'rb') as file:
    while block := file.read(2**20):
      size, crc = size + len(block), zlib.crc32(block, crc)
  return [size, crc]
