# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, and JSON of what JAX computes."""

import contextlib
import json
import math
import os

import jax
import numpy as np

from collab import atomic


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


def save_json(path, value):
  """Writes `value` as JSON, all of it or nothing."""
  write_text(path, to_json(value, indent=2) + '\n')


def write_text(path, text):
  """Writes a file so that it is at all times the old or the new one.

  Raises:
    OSError: it cannot be written; the old one stays, and nothing else does.
  """
  with naming(path), atomic.beside(path) as new:
    with new.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    new.replace(path)


@contextlib.contextmanager
def naming(path):
  """An OSError within names this path; that of a failed write names none."""
  try:
    yield
  except OSError as e:
    raise OSError(e.errno, e.strerror, str(path)) from e


def scalar(x):
  """A Python scalar of a number of NumPy or JAX; others as they are."""
  return x.item() if isinstance(x, np.ndarray | np.generic | jax.Array) else x
