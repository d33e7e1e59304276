# SPDX-License-Identifier: Apache-2.0
"""Finds attention variants by name; each variant is one file."""

import importlib
import inspect
import pkgutil

from collab import imports
from collab.attention import rope
from collab.attention.core import Attention


def names() -> list[str]:
  """Lists the names for `build`: the files here, and mqa (gqa, kv_heads=1)."""
  files = [module.name for module in pkgutil.iter_modules(__path__)]
  return sorted([*files, 'mqa'])


def variant(name: str) -> type[Attention]:
  """Finds the class of a variant by name or import path; mqa has gqa's.

  Raises:
    ValueError: no variant of that name.
  """
  if cls := imports.subclass(name, Attention):
    return cls
  if name not in names():
    raise ValueError(
      f'No attention variant {name!r}; there are {", ".join(names())}.'
    )
  file = 'gqa' if name == 'mqa' else name
  module = importlib.import_module(f'{__name__}.{file}')
  (cls,) = (
    x
    for x in vars(module).values()
    if isinstance(x, type)
    and issubclass(x, Attention)
    and x.__module__ == module.__name__
  )
  return cls


def build(variant_name: str | None = None, /, **fields) -> Attention:
  """Builds an attention layer by the name of its variant.

    layer = build('mhe_mul', num_heads=8)
    layer = build(**config)  # config['name'] is the variant

  Args:
    variant_name: one of `names()`, or the import path of a class,
      'my_lab.heads:Mine'. The default is fields['name'], where the config of a
      model keeps it.
    **fields: fields of the layer: those of `Attention` and of the variant, and
      `name`, which inside @compact is the module's. `rope` may be a mapping of
      its fields.

  Raises:
    ValueError: there is no such variant, or a value is out of range.
    TypeError: the variant does not have a field, a required field is missing,
      or a value has the wrong type.
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
  if 'rope' in fields:
    fields['rope'] = rope.build(fields['rope'])
  return cls(**fields)
