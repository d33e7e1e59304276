# SPDX-License-Identifier: Apache-2.0
"""Reports a missing package of the extra collab[train] by name.

`pip install collab` installs JAX, Flax and NumPy, which suffice for
`collab.attention` and `collab.models`. Training, conversion and data need the
extra.
"""

import functools
import importlib.metadata
import re
import sys

EXTRA = 'train'


def need() -> None:
  """Raises an ImportError that names the extra if a package is missing."""
  if missing := _missing():
    raise ImportError(
      f'collab needs {", ".join(missing)} for this: pip install '
      f"'collab[{EXTRA}]'"
    )


def need_in_commands() -> None:
  """Ends `python -m collab...` with that one line, without a traceback."""
  words = sys.orig_argv
  if '-m' in words and words[words.index('-m') + 1].startswith('collab.'):
    try:
      need()
    except ImportError as e:
      sys.exit(str(e))


@functools.cache
def _missing():
  if not _installed('collab'):  # it runs from its source folder
    return []
  lines = importlib.metadata.requires('collab') or ()
  extra = [x for x in lines if re.search(f'extra == .{EXTRA}.', x)]
  names = [re.match(r'[\w.-]+', x)[0] for x in extra]
  return [name for name in names if not _installed(name)]


def _installed(name):
  return any(importlib.metadata.distributions(name=name))
