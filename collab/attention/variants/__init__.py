# SPDX-License-Identifier: Apache-2.0
"""The variants of attention: one file each, found by its name."""

import importlib
import inspect
import pkgutil

from collab import imports
from collab.attention.core import Attention


def names() -> list[str]:
  """What `build` takes: the files of this folder, and mqa (gqa, kv_heads=1)."""
  files = [module.name for module in pkgutil.iter_modules(__path__)]
  return sorted([*files, 'mqa'])


def variant(name: str) -> type[Attention]:
  """The class of a variant by its name or import path; that of mqa is gqa's.

  Raises:
    ValueError: no variant of that name.
  """
  if cls := imports.subclass(name, Attention):
    return cls
  if name not in names():
    raise ValueError(
      f'No attention variant {name!r}; there are {", ".join(names())}.'
    )
  module = f'{__name__}.{"gqa" if name == "mqa" else name}'
  importlib.import_module(module)
  (cls,) = (c for c in Attention.__subclasses__() if c.__module__ == module)
  return cls


def build(variant_name: str | None = None, /, **fields) -> Attention:
  """An attention layer by the name of its variant.

    layer = build('mhe_mul', num_heads=8)
    layer = build(**config)  # config['name'] is the variant

  Args:
    variant_name: one of `names()`, or the import path of a class,
      'my_lab.heads:Mine'; by default fields['name'], where the configuration of
      a model has it.
    **fields: of the layer: those of `Attention`, the variant's own, and `name`,
      the module's inside @compact.

  Raises:
    ValueError: no variant of that name, or a value out of range.
    TypeError: a field that the variant does not have, one that it needs, or a
      value of another type.
  """
  name = fields.pop('name', None) if variant_name is None else variant_name
  cls = variant(name)
  if name == 'mqa':
    fields = dict(kv_heads=1) | fields
  known = dict(inspect.signature(cls).parameters)
  del known['parent']
  if unknown := sorted(fields.keys() - known):
    raise TypeError(
      f'{name} has no field {", ".join(unknown)}; it has {", ".join(known)}.'
    )
  needed = [n for n, p in known.items() if p.default is p.empty]
  if missing := [n for n in needed if n not in fields]:
    raise TypeError(f'{name} needs {", ".join(missing)}.')
  return cls(**fields)
