# SPDX-License-Identifier: Apache-2.0
"""What the layers do without: the packages of collab[train].

`pip install collab` brings JAX, Flax and NumPy, which is all that
`collab.attention` and `collab.models` need. What trains, converts and reads
data needs the extra, and says so here.
"""

import functools
import importlib.metadata
import re
import sys

EXTRA = 'train'


def need():
  """Raises an ImportError that names the extra where a package is missing."""
  if missing := _missing():
    raise ImportError(
      f'collab needs {", ".join(missing)} for this: pip install '
      f"'collab[{EXTRA}]'"
    )


def need_in_commands():
  """Ends `python -m collab...` in a line where it would end in a traceback."""
  words = sys.orig_argv
  if '-m' in words and words[words.index('-m') + 1].startswith('collab.'):
    try:
      need()
    except ImportError as e:
      sys.exit(str(e))


@functools.cache
def _missing():
  try:
    lines = importlib.metadata.requires('collab') or ()
  except (
    importlib.metadata.PackageNotFoundError
  ):  # used without being installed
    return []
  extra = [x for x in lines if re.search(f'extra == .{EXTRA}.', x)]
  names = [re.match(r'[\w.-]+', x)[0] for x in extra]
  return [name for name in names if not _installed(name)]


def _installed(name):
  try:
    importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return False
  return True
