# SPDX-License-Identifier: Apache-2.0
"""Maps each tensor of a checkpoint to our parameters, from its config."""

from collections.abc import Callable, Mapping
import re
import sys
from typing import NamedTuple

from collab import checks, model_json, models
from collab.convert.huggingface.families import FAMILIES
from collab.convert.huggingface.families.family import LABELS, Family
from collab.runtime import tree_table


class Plan(NamedTuple):
  """The mapping of a checkpoint. Keys are names of tensors without the prefix.

  Attributes:
    family: Family of the config's model_type.
    architecture: name of one of the family's architectures.
    model: all fields of models.build.
    shapes: {path of a parameter: ShapeDtypeStruct}.
    entries: {key: (paths of the parameters in it, layouts.Part, the name that
      Transformers gives it)}.
    tied: {another key: the one in entries that it equals}.
  """

  family: Family
  architecture: str
  model: dict
  shapes: dict
  entries: dict
  tied: dict

  def key(self, name: str) -> str:
    """Returns the key of a name in a file, whose prefix is optional."""
    name = name.removeprefix(f'{self.family.prefix}.')
    name = re.sub(r'LayerNorm\.gamma$', 'LayerNorm.weight', name)
    return re.sub(r'LayerNorm\.beta$', 'LayerNorm.bias', name)

  def name(self, key: str) -> str:
    """Returns the name that Transformers gives to a tensor of ours."""
    return self.entries[key][-1]


def make(config: dict, pooler: bool) -> Plan:
  """Makes the Plan of a config.

  Args:
    config: config of a checkpoint.
    pooler: whether the checkpoint has a pooler.

  Raises:
    ValueError: we have no such model.
  """
  kind = config.get('model_type')
  checks.one_of('model_type', kind, FAMILIES)
  family = FAMILIES[kind]
  get = reader(family.defaults | config)
  for name, value in (family.fixed | dict(pruned_heads={})).items():
    got = config.get(name)
    if got not in (None, value):
      raise ValueError(f'{name} is {got!r}, expected {value!r}.')
  legal = family.architectures
  architecture = (get('architectures', []) or list(legal))[0]
  checks.one_of('architecture', architecture, legal)
  model = fields(family, architecture, get, pooler)
  shapes = tree_table.named(models.shapes(models.build(**model)))
  entries = _entries(family, architecture, model, shapes, get)
  tied = {
    other: key
    for other, key in family.tied
    if key in entries and other not in entries
  }
  return Plan(family, architecture, model, shapes, entries, tied)


def fields(
  family: Family, architecture: str, get: Callable, pooler: bool
) -> dict:
  """Returns all fields of models.build."""
  model = dict(name=family.model) | family.fields(get)
  model |= family.architectures[architecture]
  model |= dict(scan=False, remat='none', dtype='float32')
  if any(path == 'pooler' for _, path, *_ in family.body):
    model['pooler'] = model['head'] in ('classify', 'choice') or pooler
  if model.get('outputs') == LABELS:
    model['outputs'] = len(classes(get)) or get('num_labels', 2)
  return model


def classes(get: Callable) -> tuple[str, ...]:
  """Reads names of outputs from id2label, else label2id; () without both."""
  names = _in_order('id2label', get('id2label', {}).items())
  ids = get('label2id', {})
  if names and len(ids) != len(names):  # Transformers uses id2label
    return names
  others = _in_order('label2id', [(i, name) for name, i in ids.items()])
  if sorted(names) == sorted(others) and names != others:
    raise ValueError(
      f'id2label has {", ".join(names)}, label2id {", ".join(others)}.'
    )
  return others if model_json.unnamed(names) else names


def _in_order(field, pairs):
  """Sorts pairs (id, name); the ids have to be 0, 1, 2, ..."""
  names = {str(number): name for number, name in pairs}
  wanted = [str(place) for place in range(len(names))]
  strings = all(isinstance(name, str) for name in names.values())
  if names.keys() != set(wanted) or len(names) < len(pairs) or not strings:
    raise ValueError(
      f'{field} is {names}, expected a name for each of 0, 1, 2, ...'
    )
  return tuple(names[place] for place in wanted)


def reader(config: Mapping) -> Callable:
  """Makes get(name[, default]), which reads a value of the default's type.

  Without a default the value has to be a count. The error of another value has
  its name in the config, and what is legal: get(..., legal=) is a range [least,
  end), or maps the legal values to ours; get(..., divides=n) says that it
  divides n, unless it is 0.
  """

  def get(name, default=None, *, legal=None, divides=0):
    value = config.get(name)
    value = default if value is None else value
    if value is None:
      raise ValueError(f'{name} is missing.')
    kind = int if default is None else type(default)
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds:  # isinstance(True, int) is true
      raise ValueError(f'{name} is {value!r}, expected {kind.__name__}.')
    if isinstance(legal, Mapping):
      checks.one_of(name, value, legal)
      return legal[value]
    if kind is int:
      legal = legal or (models.SIZE if default is None else models.COUNT)
    least, end = legal or (0, sys.float_info.max)
    if kind in (int, float) and not least <= value < end:
      below = f', below {end}' if legal else ''
      raise ValueError(f'{name} is {value}, expected at least {least}{below}.')
    if divides and value and divides % value:
      raise ValueError(f'{name} is {value}, expected a divisor of {divides}.')
    return float(value) if kind is float else value  # JAX cuts large integers

  return get


def _entries(family, architecture, model, shapes, get):
  """Returns {key: (paths, Part, name)} of all parameters; see `Plan`."""
  found, left = {}, set(shapes)
  headless = architecture == next(iter(family.architectures))
  prefix = '' if headless else f'{family.prefix}.'
  rows = [('', *row) for row in family.head]
  rows += [(prefix, *row) for row in family.body]
  numbers = [int(n) for n in re.findall(r'/layer_(\d+)/', ' '.join(shapes))]
  for start, module, path, layout, *only in rows:
    if only and architecture not in only:
      continue
    parts = layout(model['patch']) if callable(layout) else layout
    for n in range(max(numbers, default=0) + 1):
      row = {}
      for part in parts:
        key = (module + part.tensor).format(family.number(get, n))
        paths = [(path + param).format(n) for param in part.params]
        row[key] = paths, part, start + key
      paths = [p for paths, *_ in row.values() for p in paths]
      if left.issuperset(paths):
        found |= row
        left.difference_update(paths)
  assert not left, left
  return found
