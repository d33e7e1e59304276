# SPDX-License-Identifier: Apache-2.0
r"""Reads lines of text, with one definition of a line for input and output.

A line ends at \n or \r\n only. str.splitlines would also split at U+2028,
U+0085, form feeds and others, which occur within sentences. A byte order mark
before the first line is dropped. Text is UTF-8.
"""

from collections.abc import Iterable, Iterator
import contextlib
import gzip
import io
from pathlib import Path
import re
from typing import Any, BinaryIO
import zlib

from collab import checks

DAMAGE = OSError, EOFError, zlib.error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
  """Opens a file of bytes, plain or .gz; a ValueError names a damaged one."""
  damaged = checks.located(f'{path}: damaged or unreadable', DAMAGE)
  with damaged, path.open('rb') as file:
    yield gzip.GzipFile(fileobj=file) if path.suffix == '.gz' else file


def whole(path: Path) -> str:
  """Reads the text of a file; a ValueError names an unreadable one."""
  with opened(path) as file:
    data = file.read()
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise ValueError(
      f'{path}, line {line}: invalid UTF-8, or damaged.'
    ) from error


def of_path(path: Path) -> Iterator[str]:
  """Yields the lines of a file, plain or .gz, without their ends.

  Raises:
    ValueError: the file cannot be read; the message has path and line.
  """
  with opened(path) as file:
    yield from of_file(file, path)


def records(path: Path) -> Iterator[tuple[int, str]]:
  """Yields (number, line) of a file of records, except blank lines."""
  for number, line in enumerate(of_path(path), 1):
    if line.strip():
      yield number, line


def of_bytes(data: bytes, name: Any) -> Iterator[str]:
  """Yields the lines of bytes in memory; see `of_file`."""
  return of_file(io.BytesIO(data), name)


def of_file(file: BinaryIO, name: Any) -> Iterator[str]:
  """Yields the lines of a file that is open for reading bytes.

  Args:
    file: yields bytes up to and including each \\n.
    name: name of the file, for errors.
  """
  number = 0
  try:
    for number, line in enumerate(file, 1):
      text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
      if text:  # a byte order mark alone is not a line
        yield text.removesuffix('\r\n').removesuffix('\n')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{name}, line {number}: invalid UTF-8 (byte {error.start + 1} of the '
      f'line is 0x{error.object[error.start]:02x}).'
    ) from error
  except DAMAGE as error:
    raise ValueError(
      f'{name}: damaged or unreadable after line {number}: {error}'
    ) from error


def one(text: str) -> str:
  """Joins a text to one line, because a model may generate line breaks."""
  return re.sub('[\r\n]+', ' ', text)


def at_least_one(rows: Iterable, message: str) -> Iterator:
  """Yields all rows; a ValueError with this message if there are none."""
  found = False
  for row in rows:
    found = True
    yield row
  if not found:
    raise ValueError(message)
