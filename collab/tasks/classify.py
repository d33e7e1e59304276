# SPDX-License-Identifier: Apache-2.0
"""Classification and regression of texts, or pairs of texts, in a table."""

import dataclasses
import math
import re

from numpy.typing import ArrayLike

from collab import checks
from collab.data import splits
from collab.data.examples import Example, Parts
from collab.data.readers import glue as readers
from collab.data.readers import tables
from collab.io import json_text
from collab.metrics import labels
from collab.tasks import glue


def class_scores(gold: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
  """Computes accuracy, which is the score, and the mean F1 of all classes."""
  f1 = labels.f1(gold, predicted, 'macro')
  return labels.accuracy_scores(gold, predicted) | dict(macro_f1=f1)


SUBTASKS = dict(
  classes=glue.Subtask(glue.by_class(class_scores), 'relation', 3),
  regression=glue.Subtask(glue.by_value(labels.correlation_scores), 'share', 1),
)


@dataclasses.dataclass(eq=False, kw_only=True)
class OfTable(glue.Classification):
  """Classification ('classes') or 'regression' of the rows of a table.

  `data` also has text, text_pair ('' for one text) and label, the names of
  columns in the tables at data.path, see `tables`; and malformed, 'fatal', or
  'skip' to leave out and count rows that are wrong. A class is a name, and
  classes are in the order of their names, or of what `datasets` keeps.

  Without a table for 'val', a checksum of its texts takes a tenth of the rows
  of training, and another tenth for 'test' if that is missing too. Otherwise
  'test' is 'val', where it is missing or its labels are hidden.
  """

  def read(self) -> tuple[glue.Subtask, Parts]:
    data, name = self.data, self.subtask
    checks.one_of('task.subtask', name, SUBTASKS)
    checks.one_of('data.malformed', data.malformed, readers.MALFORMED)
    subtask, skipped = SUBTASKS[name], {}
    if data.corpus == 'sample' and not data.path:
      return glue.sample(subtask)
    if not data.path:
      raise ValueError(f'data.path is empty. {tables.EXPECTED}')
    columns = [x for x in (data.text, data.text_pair) if x]
    found = tables.read(data.path, [*columns, data.label])
    rows = {split or 'train': list(x()) for split, x in found.readers.items()}
    if 'train' not in rows:
      raise ValueError(f'{data.path} has no train. {tables.EXPECTED}')
    if all(_hidden(row) for _, row in rows.get('test', ())):
      rows.pop('test', None)
    label = _number
    if name == 'classes':
      known = found.classes.get(data.label, ())
      classes = known or _classes(rows['train'], data.path)
      subtask = subtask._replace(classes=classes, outputs=len(classes))

      def label(value):
        return readers.label_id(_name(value, known), classes)

    made = {
      split: list(self._examples(rows[split], columns, label, skipped))
      for split in splits.SPLITS
      if split in rows
    }
    _complete(made)
    for split, some in made.items():
      if not some:
        raise ValueError(f"{data.path}: '{split}' has no examples.")
    test = 'test' if 'test' in made else 'val'
    parts = {split: x.__iter__ for split, x in made.items()}
    return subtask, Parts(parts, {'': 'val'}, {'': test}, skipped)

  def _examples(self, rows, columns, label, skipped):
    for where, row in rows:
      try:
        if isinstance(row, ValueError):
          raise row
        *texts, value = row
        cells = dict(zip(columns, texts, strict=True))
        texts = tuple(json_text.field(cells, column) for column in columns)
        example = Example(texts, label(value))
      except ValueError as error:
        if self.data.malformed == 'skip':
          file = where.rpartition(', ')[0]
          skipped[file] = skipped.get(file, 0) + 1
          continue
        raise ValueError(
          f"{where}: {str(error).rstrip('.')} (data.malformed='skip' leaves "
          'such rows out).'
        ) from error
      yield example


build = OfTable


def _hidden(row):
  """Returns whether the label of a test set was not published."""
  return isinstance(row, list) and row[-1] in (None, '', -1, '-1')


def _number(value):
  with checks.located('the label', (TypeError, ValueError)):
    number = float(value)
  if not math.isfinite(number):
    raise ValueError(f'the label is {value!r}, expected a finite number.')
  return number


def _name(value, known):
  """Returns the name of a class; in `datasets` a label is a place in names."""
  if isinstance(value, int) and 0 <= value < len(known):
    return known[value]
  name = '' if value is None else str(value).strip()
  if not name:
    raise ValueError('the label is missing.')
  return name


def _classes(rows, path):
  """Returns the names of the classes in training, numbers by their size."""
  values = (row[-1] for _, row in rows if isinstance(row, list))
  names = {str(value).strip() for value in values if value is not None} - {''}
  if len(names) < 2:
    raise ValueError(
      f'{path}: training has the labels {", ".join(names) or "none"}; expected '
      'two classes at least.'
    )
  numbers = all(re.fullmatch(r'-?\d+', name, re.ASCII) for name in names)
  return tuple(sorted(names, key=int if numbers else None))


def _complete(made: dict[str, list[Example]]) -> None:
  """Takes rows of training for 'val', and for 'test' if both are missing."""
  if 'val' in made:
    return
  rows, made['val'] = made['train'], []
  made.setdefault('test', taken := [])
  made['train'] = []
  for example in rows:
    split = splits.by_checksum('\t'.join(example.texts))
    if split == 'test' and made['test'] is not taken:
      split = 'train'
    made[split].append(example)
