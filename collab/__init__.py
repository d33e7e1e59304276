# SPDX-License-Identifier: Apache-2.0
"""Parameter-efficient multi-head attention in JAX and Flax.

`collab.load(folder)` opens a trained or converted model: inference/run.py.
"""

import importlib
from typing import Any

from collab import extras

extras.need_in_commands()


def __getattr__(name: str) -> Any:
  """Finds `collab.load` when it is used: it needs the extra of training."""
  if name != 'load':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module('collab.inference.run').load
