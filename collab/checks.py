# SPDX-License-Identifier: Apache-2.0
"""Errors of one line: a value that is not legal, or where an error was met.

The name of a config's field has its group: data.row_length, optim.lr.
"""

from collections.abc import Collection, Iterator
import contextlib
from typing import Any


def one_of(name: str, value: Any, legal: Collection) -> None:
  """Raises a ValueError unless the value is one of the legal ones."""
  if value not in list(legal):  # it may have any type
    raise ValueError(f'{name}={value!r}; there are {", ".join(legal)}.')


def at_least(name: str, value: float, least: float, why: str = '') -> None:
  """Raises a ValueError for a smaller value or NaN; `why` follows in words."""
  if not value >= least:
    raise ValueError(f'{name}={value}; expected at least {least}{why}.')


def within(name: str, value: float, least: float, most: float) -> None:
  """Raises a ValueError unless least <= value <= most."""
  if not least <= value <= most:
    raise ValueError(f'{name}={value}; expected {least} to {most}.')


@contextlib.contextmanager
def located(where: Any, kinds: Any = ValueError) -> Iterator[None]:
  """Raises an error within as a ValueError of one line that begins with where.

  Args:
    where: a file, a line, a question, or what cannot be done.
    kinds: the class of the errors that are meant, or a tuple of classes.
  """
  try:
    yield
  except kinds as error:
    words = ' '.join(str(error).split())
    raise ValueError(f'{where}: {words}') from error
