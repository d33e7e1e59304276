# SPDX-License-Identifier: Apache-2.0
"""Reads and writes model.json: a model's fields, tokenizer and classes."""

import pathlib
import re
from typing import NamedTuple

from collab.io import atomic, buckets, json_text
from collab.runtime import identity, tree_table
from collab.runtime import workdir as workdirs


class Meaning(NamedTuple):
  """The meaning of a model's ids and outputs; empty where it is unknown.

  Attributes:
    tokenizer: fingerprint of its tokenizer.
    classes: names of the outputs of its head, in order.
  """

  tokenizer: str = ''
  classes: tuple[str, ...] = ()


def write(workdir: str | pathlib.Path, fields: dict, meaning: Meaning) -> None:
  """Writes the fields of models.build and the Meaning to a workdir."""
  path = buckets.at(workdir) / 'model.json'
  atomic.save_json(path, fields | meaning._asdict())


def read(workdir: str | pathlib.Path) -> tuple[dict, Meaning]:
  """Reads the fields of models.build and the Meaning, which old workdirs lack.

  Raises:
    ValueError: the file is missing or damaged.
  """
  path = buckets.at(workdir) / 'model.json'
  if not path.exists():
    raise ValueError(
      f'{path} is missing; train.py --workdir={workdir} --eval_only writes it.'
    )
  fields = json_text.tuples(json_text.read_object(path))
  fields = identity.upgrade(dict(model=fields))['model']
  if 'image_size' in fields:  # older files have no `channels`
    data = workdirs.read(workdir)['config']['data']
    fields = dict(channels=len(data.get('mean', 'RGB'))) | fields
  empty = Meaning._field_defaults.items()
  meaning = Meaning(*(fields.pop(name, value) for name, value in empty))
  json_text.require(meaning._asdict(), path, tokenizer=str, classes=tuple)
  classes, outputs = meaning.classes, fields.get('outputs')
  named = all(isinstance(name, str) for name in classes)
  if not named or len(classes) not in (0, outputs):
    raise ValueError(
      f'{path} is damaged: classes is {classes!r}, expected the names of '
      f'outputs={outputs}.'
    )
  return fields, meaning


def check(workdir: str | pathlib.Path, meaning: Meaning) -> None:
  """Refuses a Meaning that differs from that of the workdir's model, if any.

  Raises:
    ValueError: the tokenizer or the classes are not those of the model.
  """
  if not (buckets.at(workdir) / 'model.json').exists():
    return
  _, known = read(workdir)
  check_tokenizer(workdir, known.tokenizer, meaning.tokenizer)
  old, new = known.classes, meaning.classes
  if old and old != new:
    raise ValueError(f'{workdir}: {_both(old, new)}.')


def check_tokenizer(workdir: str | pathlib.Path, known: str, got: str) -> None:
  """Refuses a tokenizer other than the model's, by their fingerprints."""
  if known and got != known:
    raise ValueError(
      f'{workdir}: its model was trained with the tokenizer {known}, as its '
      f'model.json says; got {got or "none"}.'
    )


def places(old: tuple, new: tuple) -> list[int] | None:
  """Finds the index of each class of `new` in `old`.

  Names that differ only in case, blanks or dashes are equal.

  Returns:
    A list, or None if one of the two has no names or only numbers (LABEL_0).

  Raises:
    ValueError: the classes differ; the message has both lists.
  """
  if old == new:  # even if a name occurs twice
    return list(range(len(old))) or None
  for same in (str, _plain):
    at = {same(name): place for place, name in enumerate(old)}
    wanted = [same(name) for name in new]
    if len(at) == len(old) and sorted(at) == sorted(wanted):
      return [at[name] for name in wanted]
  if unnamed(old) or unnamed(new):
    return None
  raise ValueError(_both(old, new))


def unnamed(classes: tuple) -> bool:
  """Returns whether the names of classes are only numbers: 0, LABEL_0."""
  numbers = [re.sub(r'^label_', '', _plain(name)) for name in classes]
  return numbers == [str(place) for place in range(len(numbers))]


def _plain(name):
  return re.sub(r'[\s_-]+', '_', name.strip().casefold())


def _both(old, new):
  old, new = (tree_table.join_names(x, most=12) or 'none' for x in (old, new))
  return f'the classes of its model are {old}; expected {new}'
