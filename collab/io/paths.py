# SPDX-License-Identifier: Apache-2.0
"""Expands ~ in paths that a user gives."""

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from ml_collections import ConfigDict


def expand(text: str) -> str:
  """Expands ~ in a path, or in a list of them, wherever a path begins.

  Shells expand it only at the beginning of a word, so neither in
  --workdir=~/run nor in train=~/a.en,~/a.de.
  """
  return re.sub(r'(?<![^=,])~[^/=,]*', lambda x: os.path.expanduser(x[0]), text)


def runs_folder() -> str:
  """The folder of workdirs that nobody named: COLLAB_RUNS, else runs."""
  return expand(os.environ.get('COLLAB_RUNS') or 'runs')


def expand_all(config: 'ConfigDict') -> None:
  """Expands ~ in all strings of a ConfigDict, in place."""
  for name, value in config.items():
    if hasattr(value, 'items'):
      expand_all(value)
    elif isinstance(value, str):
      config[name] = expand(value)
    elif isinstance(value, tuple):
      config[name] = tuple(
        expand(x) if isinstance(x, str) else x for x in value
      )
