# SPDX-License-Identifier: Apache-2.0
"""Reads and writes JSON, with numbers of JAX and errors that name the file."""

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from collab import checks


def parse(text: str) -> Any:
  """Parses a JSON text.

  Raises:
    json.JSONDecodeError: it is not JSON, or too deep or long for Python.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError:
    raise
  except RecursionError:
    raise json.JSONDecodeError('Nested too deeply', text, 0) from None
  except ValueError:
    raise json.JSONDecodeError('Number of too many digits', text, 0) from None


def tuples(x: Any) -> Any:
  """Turns the lists of a JSON value back into tuples."""
  if isinstance(x, dict):
    return {key: tuples(value) for key, value in x.items()}
  return tuple(map(tuples, x)) if isinstance(x, list) else x


def parse_object(text: str | bytes, where: Any, **fields: type) -> dict:
  """Parses a JSON object into a dict; a ValueError names its source.

  Args:
    text: text, or bytes of UTF-8.
    where: file, or file and line.
    **fields: names and types of required fields.
  """
  with checks.located(f'{where} is no JSON'):
    value = parse(text if isinstance(text, str) else text.decode())
  if not isinstance(value, dict):
    raise ValueError(
      f'{where} holds a {type(value).__name__}, expected {{...}}.'
    )
  return require(value, where, **fields)


def require(value: dict, where: Any, **fields: type) -> dict:
  """Checks the fields of a dict; a ValueError names a wrong one."""
  with checks.located(f'{where} is damaged'):
    for name, kind in fields.items():
      field(value, name, kind)
  return value


def read_object(path: pathlib.Path, **fields: type) -> dict:
  """Reads the object in a JSON file; see `parse_object`."""
  try:
    text = path.read_bytes()
  except OSError as e:
    raise ValueError(f'{path}: {e.strerror or type(e).__name__}.') from e
  return parse_object(text, path, **fields)


def to_json(value: Any, **options: Any) -> str:
  """Formats JSON with all digits of floats; nan and inf become strings."""

  def plain(x):
    if isinstance(x, dict):
      return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [plain(v) for v in x]
    x = scalar(x)
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(plain(value), allow_nan=False, **options)


def scalar(x: Any) -> Any:
  """Converts a NumPy or JAX number to a Python scalar; keeps other values."""
  return x.item() if isinstance(x, np.ndarray | np.generic | jax.Array) else x


def field(row: Any, name: str, kind: type = str) -> Any:
  """Returns row[name]; a ValueError if it is missing or of another type."""
  if not isinstance(row, dict) or name not in row:
    there = ', '.join(row) if isinstance(row, dict) else f'{row!r:.60}'
    raise ValueError(f'expected {name!r}, got {there}.')
  value = row[name]
  if not isinstance(value, kind):
    raise ValueError(f'{name} is {value!r:.60}, expected {kind.__name__}.')
  if kind is str and any('\ud800' <= c <= '\udfff' for c in value):
    raise ValueError(f'{name} has half a surrogate pair, so it is no Unicode.')
  return value
