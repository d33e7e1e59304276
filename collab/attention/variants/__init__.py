# SPDX-License-Identifier: Apache-2.0
"""The variants: one file each, found by its name."""

import dataclasses
import importlib
import inspect
import pkgutil

from collab import imports
from collab.attention.core import Attention

_ALIASES = {'mqa': ('gqa', dict(kv_heads=1))}


def names():
  """What `build` takes: the files of this folder, and mqa (gqa, kv_heads=1)."""
  files = [module.name for module in pkgutil.iter_modules(__path__)]
  return sorted([*files, *_ALIASES])


def variant(name):
  """The layer class in variants/<name>.py."""
  if name not in names() or name in _ALIASES:
    legal = ', '.join(n for n in names() if n not in _ALIASES)
    raise ValueError(f'No attention variant {name!r}; there are {legal}.')
  module = importlib.import_module(f'{__name__}.{name}')

  def is_variant(x):
    return (
      inspect.isclass(x)
      and issubclass(x, Attention)
      and x.__module__ == module.__name__
    )

  ((_, cls),) = inspect.getmembers(module, is_variant)
  return cls


def build(variant_name=None, /, **fields):
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
    ValueError: no variant of that name.
    TypeError: a field that the variant has not, or one that it needs.
  """
  name = fields.pop('name', None) if variant_name is None else variant_name
  cls = imports.subclass(name, Attention)
  if cls is None:
    if name not in names():
      raise ValueError(
        f'No attention variant {name!r}; there are {", ".join(names())}.'
      )
    target, preset = _ALIASES.get(name, (name, {}))
    cls, fields = variant(target), preset | fields
  known = {
    f.name: f for f in dataclasses.fields(cls) if f.name not in ('parent',)
  }
  if unknown := sorted(set(fields) - set(known)):
    raise TypeError(
      f'{name} has no field {", ".join(unknown)}; it has {", ".join(known)}.'
    )
  needed = [
    n
    for n, f in known.items()
    if f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  if missing := [n for n in needed if n not in fields]:
    raise TypeError(f'{name} needs {", ".join(missing)}.')
  return cls(**fields)
