# SPDX-License-Identifier: Apache-2.0
"""Finds classes outside this package by an import path, my_lab.tasks:Mine."""

import importlib
from typing import Any

from collab import checks


def subclass(name: Any, base: type) -> type | None:
  """Returns the class named by 'module:Class'; None if the name has no colon.

  The name may come from a workdir that somebody else wrote. So only modules on
  sys.path are imported, and only subclasses of `base` are accepted.

  Args:
    name: name of a variant, a task or a model in a config.
    base: class that the result has to derive from.

  Raises:
    ValueError: there is no such module or class, or it does not derive from
      base.
  """
  if not isinstance(name, str) or ':' not in name:
    return None
  module, _, attribute = name.partition(':')
  kinds = ImportError, AttributeError, TypeError, ValueError
  with checks.located(f'{name} cannot be imported', kinds):
    found = getattr(importlib.import_module(module), attribute)
  # issubclass would refuse protocols.
  if base not in getattr(found, '__mro__', ()):
    raise ValueError(
      f'{name} is {found!r}; expected a subclass of '
      f'{base.__module__}.{base.__name__}.'
    )
  return found
