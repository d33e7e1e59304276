# SPDX-License-Identifier: Apache-2.0
"""JSON from elsewhere: a value, or one kind of error."""

import json


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


def read_object(path):
  """The object in a JSON file, a dict; a ValueError names the file."""
  try:
    value = parse(path.read_text('utf-8'))
  except OSError as e:
    raise ValueError(f'{path}: {e.strerror}.') from e
  except ValueError as e:
    raise ValueError(f'{path} is no JSON: {e}.') from e
  if not isinstance(value, dict):
    raise ValueError(
      f'{path} holds a {type(value).__name__}, expected {{...}}.'
    )
  return value
