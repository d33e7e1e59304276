# SPDX-License-Identifier: Apache-2.0
"""Reads tables by splits: CSV, TSV, JSON lines, Parquet, and `datasets`.

A path is a file, a folder of files, a folder that `datasets` has saved, or
hf:NAME/SUBSET, a data set of the Hugging Face hub, kept in its cache. The words
of a file's path say its split: train.csv, data/dev-00000-of-00002.parquet.
"""

from collections.abc import Callable, Sequence
import csv
import functools
from itertools import chain
import json
from pathlib import Path
import re
from typing import Any, NamedTuple

from collab import checks
from collab.data.readers import split_files
from collab.io import json_text, node_files, text_lines

HUB = 'hf:'
EXPECTED = (
  'Expected a table, or one a split: train.csv, val.csv (or valid, validation, '
  'dev) and test.csv; .csv, .tsv, .jsonl, plain or .gz; .parquet, .arrow.'
)


class Tables(NamedTuple):
  """Tables by splits.

  Attributes:
    name: description for people.
    fingerprint: changes when the tables may have.
    readers: {split: function that starts an iterator of (where, values)}; the
      split is '' if no file names one. The values are those of the columns, or
      a ValueError that says what is wrong with the row.
    classes: {column: names of its classes}, of `datasets`.
  """

  name: str
  fingerprint: str
  readers: dict[str, Callable]
  classes: dict[str, tuple[str, ...]]


def read(path: str | Path, columns: Sequence[str]) -> Tables:
  """Finds the tables of a path.

  Args:
    path: see above.
    columns: names of the columns.

  Raises:
    ValueError: there is none, several for a split, or it lacks a column. While
      iterating: a damaged file, or one without rows.
  """
  hub = str(path).startswith(HUB)
  folder = _of_hub(path) if hub else node_files.fetched(path)
  named = files(folder)
  if not named:
    some = ', '.join(split_files.names(folder, EXPECTED)[:12])
    raise ValueError(
      f'{path} has no table, but {some or "nothing"}. {EXPECTED}'
    )
  found = split_files.by_word(named)
  found = found or {'': list(chain.from_iterable(named.values()))}
  for split, paths in found.items():
    if len(paths) > 1 and not all(re.search(r'\d$', _stem(x)) for x in paths):
      names = ', '.join(map(str, paths))
      raise ValueError(f'{path} has {names} for {split or "the table"}.')
  readers = {
    split: functools.partial(_rows, paths, tuple(columns))
    for split, paths in found.items()
  }
  paths = list(chain.from_iterable(found.values()))
  identity = split_files.identity(paths)
  return Tables(str(path), identity, readers, _classes(paths[0]))


def files(path: Path) -> dict[str, list[Path]]:
  """Returns {words about the split: [table]} of a file, or of a folder's."""
  if path.is_file():
    named = {'': path}
  else:
    depths = chain.from_iterable(map(path.glob, ('*', '*/*')))
    named = {str(p.relative_to(path)): p for p in sorted(depths)}
  # Hidden files, and what `datasets` has computed of others.
  hidden = re.compile(r'(^|/)(\.|cache-)')
  return {
    name: [p]
    for name, p in named.items()
    if is_table(p) and p.is_file() and not hidden.search(name)
  }


def are_of_datasets(path: str) -> bool:
  """Returns whether a path has tables of a form that `datasets` writes."""
  named = files(node_files.fetched(path))
  endings = {_ending(p) for paths in named.values() for p in paths}
  return path.startswith(HUB) or not endings.isdisjoint(('.parquet', '.arrow'))


def is_table(path: Path) -> bool:
  """Returns whether a file has the ending of a table."""
  return _ending(path) in READERS


def _plain(path):
  return path.with_suffix('') if path.suffix == '.gz' else path


def _ending(path):
  return _plain(path).suffix.lower()


def _stem(path):
  return _plain(path).stem


def _rows(paths, columns):
  """Yields (where, values) of the rows of files."""
  rows = chain.from_iterable(READERS[_ending(p)](p, columns) for p in paths)
  names = ' and '.join(map(str, paths[:3]))
  return text_lines.at_least_one(rows, f'{names}: no rows.')


def places(where: Any, header: Sequence[str], columns: Sequence[str]) -> list:
  """Returns places of columns in a header; a ValueError if one is missing."""
  if missing := [name for name in columns if name not in header]:
    raise ValueError(
      f'{where}: no column {" and ".join(missing)}; there are '
      f'{", ".join(header) or "none"}.'
    )
  return [header.index(name) for name in columns]


def _separated(path, columns, **form):
  """Reads a file with a header; texts in quotes may have line breaks."""
  csv.field_size_limit(1 << 30)  # texts may be books
  lines = (f'{line}\n' for line in text_lines.of_path(path))
  reader, begin = csv.reader(lines, strict=True, **form), 1
  header = None
  while True:
    with checks.located(f'{path}, line {begin}', csv.Error):
      row = next(reader, None)
    where, begin = f'{path}, line {begin}', reader.line_num + 1
    if row is None:
      break
    if header is None:
      header, at = row, places(where, row, columns)
    elif len(row) == len(header):
      yield where, [row[i] for i in at]
    elif row:  # not a blank line
      yield (
        where,
        ValueError(f'{len(row)} columns, the header has {len(header)}'),
      )
  if header is None:
    raise ValueError(f'{path} is empty; expected a header and rows.')


def _json_lines(path, columns):
  for number, line in text_lines.records(path):
    where = f'{path}, line {number}'
    row = json_text.parse_object(line, where)
    at = places(where, list(row), columns)
    values = list(row.values())
    yield where, [values[i] for i in at]


def _parquet(path, columns):
  import pyarrow.parquet  # slow, and few need it

  with _damage(path):
    file = pyarrow.parquet.ParquetFile(path)
    header = file.schema_arrow.names
  places(path, header, columns)
  return _batches(path, file.iter_batches(columns=list(columns)), columns)


def _arrow(path, columns):
  import pyarrow

  with _damage(path):
    stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
  places(path, stream.schema.names, columns)
  return _batches(path, stream, columns)


def _batches(path, batches, columns):
  """Yields rows of pyarrow's record batches; the first is row 1."""
  number = 0
  with _damage(path):
    for batch in batches:
      lists = (batch.column(name).to_pylist() for name in columns)
      for values in zip(*lists, strict=True):
        number += 1
        yield f'{path}, row {number}', list(values)


def _damage(path):
  import pyarrow

  return checks.located(
    f'{path}: damaged or unreadable', (pyarrow.ArrowException, OSError)
  )


READERS = {
  '.csv': _separated,
  '.tsv': functools.partial(_separated, delimiter='\t', quoting=csv.QUOTE_NONE),
  '.jsonl': _json_lines,
  '.parquet': _parquet,
  '.arrow': _arrow,
}


def _classes(path):
  """Returns the names of classes that `datasets` keeps in a file's schema."""
  ending = _ending(path)
  if ending not in ('.parquet', '.arrow'):
    return {}
  import pyarrow.parquet

  with _damage(path):
    if ending == '.parquet':
      schema = pyarrow.parquet.read_schema(path)
    else:
      schema = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).schema
  kept = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
  features = kept.get('info', {}).get('features', {})
  return {k: tuple(x['names']) for k, x in features.items() if 'names' in x}


def _of_hub(path):
  """Returns the folder of Parquet files that the hub makes of a data set."""
  name, _, subset = path.removeprefix(HUB).rpartition('/')
  if not name:
    raise ValueError(
      f'{path}: expected {HUB}NAME/SUBSET or {HUB}OWNER/NAME/SUBSET; without '
      "subsets, SUBSET is 'default'."
    )
  import huggingface_hub  # slow, and few need it

  with checks.located(f'{path} is neither on the hub nor kept here', Exception):
    folder = huggingface_hub.snapshot_download(
      name,
      repo_type='dataset',
      revision='refs/convert/parquet',
      allow_patterns=f'{subset}/*',
    )
  return Path(folder, subset)
