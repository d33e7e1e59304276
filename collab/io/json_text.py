# SPDX-License-Identifier: Apache-2.0
"""JSON: written of what JAX computes, and read with one kind of error."""

import json
import math

import jax
import numpy as np


def parse(text):
  """The value of a JSON text.

  Raises:
    json.JSONDecodeError: it is none; also where Python's reader says so by
      another error.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError:
    raise
  except RecursionError:
    raise json.JSONDecodeError('Nested too deeply', text, 0) from None
  except ValueError:
    raise json.JSONDecodeError('Number of too many digits', text, 0) from None


def tuples(x):
  """A value with JSON's lists as the tuples that they were."""
  if isinstance(x, dict):
    return {key: tuples(value) for key, value in x.items()}
  return tuple(map(tuples, x)) if isinstance(x, list) else x


def parse_object(text, where, **fields):
  """The object of a JSON text, a dict; a ValueError says where it is from.

  Args:
    text: bytes.
    where: file, or file and line.
    **fields: {name: type} of what it must have.
  """
  try:
    value = parse(text.decode())
  except ValueError as e:
    raise ValueError(f'{where} is no JSON: {e}.') from e
  if not isinstance(value, dict):
    raise ValueError(
      f'{where} holds a {type(value).__name__}, expected {{...}}.'
    )
  return require(value, where, **fields)


def require(value, where, **fields):
  """A dict that has fields of these types; a ValueError says which not."""
  for name, kind in fields.items():
    if name not in value:
      raise ValueError(f'{where} is damaged: it has no {name}.')
    if not isinstance(value[name], kind):
      raise ValueError(
        f'{where} is damaged: {name} is {value[name]!r:.60}, expected '
        f'{kind.__name__}.'
      )
  return value


def read_object(path, **fields):
  """The object in a JSON file, as `parse_object` has it."""
  try:
    text = path.read_bytes()
  except OSError as e:
    raise ValueError(f'{path}: {e.strerror}.') from e
  return parse_object(text, path, **fields)


def to_json(value, **options):
  """JSON with all digits of floats; nan and inf become the strings of these."""

  def plain(x):
    if isinstance(x, dict):
      return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [plain(v) for v in x]
    x = scalar(x)
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(plain(value), allow_nan=False, **options)


def scalar(x):
  """A Python scalar of a number of NumPy or JAX; others as they are."""
  return x.item() if isinstance(x, np.ndarray | np.generic | jax.Array) else x


def field(row, name: str, kind: type = str):
  """row[name]; a ValueError if `row` does not have it, or of another type."""
  if not isinstance(row, dict) or name not in row:
    there = ', '.join(row) if isinstance(row, dict) else f'{row!r:.60}'
    raise ValueError(f'expected {name!r}, got {there}.')
  value = row[name]
  if not isinstance(value, kind):
    raise ValueError(f'{name} is {value!r:.60}, expected {kind.__name__}.')
  if kind is str and any('\ud800' <= c <= '\udfff' for c in value):
    raise ValueError(f'{name} has half a surrogate pair, so it is no Unicode.')
  return value
