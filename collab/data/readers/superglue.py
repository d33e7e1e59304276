# SPDX-License-Identifier: Apache-2.0
"""Reads SuperGLUE: its published JSONL files, one folder a task, or TFDS.

Labels of the public test sets are hidden. So 'val' and 'test' are both
val.jsonl (plain or .gz), and the score of the best epoch on it is optimistic.
"""

from collections.abc import Callable
import functools
from pathlib import Path
from typing import NamedTuple

from collab import checks
from collab.data.examples import Parts
from collab.data.readers import prepared, split_files
from collab.data.readers import superglue_forms as forms
from collab.data.readers.glue import ENTAILED, label_id
from collab.io import json_text, node_files, text_lines

BOOLS, BITS = (False, True), (0, 1)
CB = ('entailment', 'contradiction', 'neutral')
RTE = ENTAILED
NLI = forms.two('premise', 'hypothesis')


class Layout(NamedTuple):
  """The files and the form of a task.

  Attributes:
    folder: folder of its files.
    form: function of a row in TFDS' layout -> Examples.
    labels: values of the label in JSON, in the order of their ids.
    rows: function of a line's JSON and its number -> rows in TFDS' layout.
  """

  folder: str
  form: Callable
  labels: tuple
  rows: Callable = forms.flat


LAYOUTS = dict(
  boolq=Layout('BoolQ', forms.two('passage', 'question'), BOOLS),
  cb=Layout('CB', NLI, CB),
  copa=Layout('COPA', forms.copa, BITS),
  multirc=Layout('MultiRC', forms.multirc, BITS, forms.questions),
  record=Layout('ReCoRD', forms.record, BITS, forms.queries),
  rte=Layout('RTE', NLI, RTE),
  wic=Layout('WiC', forms.wic, BOOLS),
  wsc=Layout('WSC', forms.wsc, BOOLS, forms.target),
)


def local(name: str, path: str | Path, malformed: str = 'fatal') -> Parts:
  """Reads a task's parts from a folder of SuperGLUE's folders.

  Args:
    name: a key of LAYOUTS.
    path: the folder that has BoolQ, CB, ...
    malformed: only 'fatal' is legal, because no line of these files is bad.

  Raises:
    ValueError: there is no such file. While iterating: a damaged file, a line
      that is not JSON or lacks a field, an unknown label, or no example at all.
  """
  checks.one_of('data.malformed', malformed, ('fatal',))
  layout, readers, folder = LAYOUTS[name], {}, node_files.fetched(path)
  for part in ('train', 'val'):
    wanted = folder / layout.folder / f'{part}.jsonl'
    file = split_files.plain_or_gz(wanted)
    if not file:
      raise ValueError(f'There is no file {wanted}, plain or .gz.')
    readers[part] = functools.partial(_read, file, layout)
  return Parts(readers, {'': 'val'}, {'': 'val'}, {})


def tfds(name: str, corpus: str = 'super_glue') -> Parts:
  """Reads the same from TFDS, e.g. 'super_glue/cb'; see `prepared.builder`."""
  builder = prepared.builder(f'{corpus}/{name}')

  def read(split):
    for i, row in enumerate(prepared.rows(builder, split)):
      with checks.located(f'{corpus}/{name}, {split}, record {i}'):
        found = list(LAYOUTS[name].form(row))
      yield from found

  splits = prepared.splits(builder)
  readers = {x: functools.partial(read, splits[x]) for x in ('train', 'val')}
  return Parts(readers, {'': 'val'}, {'': 'val'}, {})


def _read(path, layout):
  """Yields the Examples of a file."""
  found = _examples(path, layout)
  return text_lines.at_least_one(found, f'{path} has no examples.')


def _examples(path, layout):
  for number, line in text_lines.records(path):
    with checks.located(f'{path}, line {number}'):
      parsed = json_text.parse_object(line, 'it')
      found = [
        example._replace(label=label_id(example.label, layout.labels))
        for row in layout.rows(parsed, number)
        for example in layout.form(row)
      ]
    yield from found
