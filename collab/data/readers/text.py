# SPDX-License-Identifier: Apache-2.0
"""Reads running text by splits, and its tokens as one long sequence."""

from collections.abc import Callable, Iterator
import functools
import hashlib
from itertools import chain, tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from collab import checks
from collab.data.readers import prepared, split_files, tables
from collab.data.samples import prose
from collab.data.splits import SPLITS, by_checksum
from collab.data.tokenizer import Tokenizer, each
from collab.io import json_text, node_files, sealed, text_lines


class Text(NamedTuple):
  """Lines of text.

  Attributes:
    name: description for people.
    fingerprint: changes when the text may have changed.
    readers: {split: function that starts an iterator of lines}, as str without
      the end of line (see `text_lines`).
    not_read: names of other files and folders beside those of the text.
  """

  name: str
  fingerprint: str
  readers: dict[str, Callable]
  not_read: tuple[str, ...] = ()

  def lines(self, split: str) -> Iterator[str]:
    """Iterates over the lines of a split; a ValueError if it has none."""
    return _not_empty(self.readers[split](), self.name, split)


class Stream(NamedTuple):
  """The tokens of all lines in sequence, with <eos> after each line.

  Attributes:
    tokens: uint16 or uint32 [n].
    words: number of words separated by blanks, plus one for each end of line.
      Perplexity is per word, so that it does not depend on the tokens.
    characters: number of characters, plus one for each end of line.
  """

  tokens: np.ndarray
  words: int
  characters: int


def read(corpus: str, path: str, column: str = 'text') -> Text:
  """Reads local files if a path is given, else the sample or a TFDS set."""
  if path:
    return local(path, column)
  return sample() if corpus == 'sample' else tfds(corpus)


def local(path: str | Path, column: str = 'text') -> Text:
  """Reads a folder of text files, in UTF-8, plain or .gz; or of tables.

  Their names contain the split: wiki.train.raw, ptb.valid.txt, test.txt.gz, ...
  (train; val, valid, validation or dev; test). If no name does, the files *.txt
  are one text, and each line's checksum decides its split: 1 % is val, 1 %
  test. `of_tables` reads a file, or a folder without text.

  Raises:
    ValueError: no folder, no file, a missing split, two files for one, or a
      file for two.
  """
  folder = node_files.fetched(path)
  if folder.is_file() or str(path).startswith(tables.HUB):
    return of_tables(path, column)
  expected = (
    'Expected one file a split, e.g. wiki.train.raw, wiki.valid.raw and '
    'wiki.test.raw; or *.txt that name no split; plain or .gz; or tables, '
    'train.csv, ...'
  )
  paths = [folder / name for name in split_files.names(folder, expected)]
  found = split_files.by_word(
    {p.name: [p] for p in paths if not tables.is_table(p)}
  )
  for split in SPLITS if found else ():
    if len(got := found.get(split, [])) != 1:
      names = ', '.join(p.name for p in got) or 'nothing'
      raise ValueError(f'{folder} has {names} for {split}. {expected}')
  if found:
    paths = list(chain(*found.values()))
    readers = {s: functools.partial(_of_file, found[s][0], s) for s in SPLITS}
  else:
    paths = [p for p in paths if p.name.lower().endswith(('.txt', '.txt.gz'))]
    readers = {s: functools.partial(_part, paths, s) for s in SPLITS}
  if not paths and tables.files(folder):
    return of_tables(path, column)
  if not paths:
    raise ValueError(f'{folder} has no text. {expected}')
  others = [p for p in sorted(folder.iterdir()) if p not in paths]
  names = [p.name + '/' * p.is_dir() for p in others if p.name[0] != '.']
  identity = split_files.identity(paths)
  return Text(str(path), identity, readers, tuple(names))


def of_tables(path: str | Path, column: str) -> Text:
  """Reads a column of tables, see `tables`; a cell may have several lines.

  Where there is no table for 'val' or 'test', the checksums of lines choose 1 %
  of training for it.

  Raises:
    ValueError: as `tables.read`, or there is no training. While iterating: a
      cell is no text.
  """
  found = tables.read(path, [column])
  whole = found.readers.get('train', found.readers.get(''))
  if not whole:
    raise ValueError(f'{path} has nothing for train. {tables.EXPECTED}')
  missing = [x for x in SPLITS if x not in found.readers]

  def lines(split):
    reader = found.readers.get(split, whole)
    for line in _cells(reader, column):
      part = by_checksum(line, 100)
      part = part if part in missing else 'train'
      if reader is not whole or part == split:
        yield line

  readers = {split: functools.partial(lines, split) for split in SPLITS}
  identity = _hash('table', f'{found.fingerprint} {column}')
  return Text(str(path), identity, readers)


def _cells(reader, column):
  for where, row in reader():
    with checks.located(where):
      if isinstance(row, ValueError):
        raise row
      text = json_text.field({column: row[0]}, column)
    yield from text_lines.of_bytes(text.encode(), where)


def sample() -> Text:
  """Makes the bundled sample, see `prose`."""
  readers = {split: functools.partial(prose.lines, split) for split in SPLITS}
  return Text('sample', prose.FINGERPRINT, readers)


def tfds(name: str) -> Text:
  """Reads a TFDS data set with a feature `text`, e.g. 'lm1b'.

  Without a validation or test split, the last and the second to last percent of
  training replace them.
  """
  builder = prepared.builder(name, ('text',))
  splits = builder.info.splits
  val = 'validation' if 'validation' in splits else 'train[99%:]'
  test = 'test' if 'test' in splits else 'train[98%:99%]'
  train = 'train[:98%]' if 'train' in val + test else 'train'
  parts = dict(train=train, val=val, test=test)

  def lines(part):
    for i, row in enumerate(builder.as_data_source(split=part)):
      name = f'{builder.info.full_name}, {part}, record {i}'
      yield from text_lines.of_bytes(row['text'], name)

  readers = {split: functools.partial(lines, x) for split, x in parts.items()}
  identity = f'{name} {builder.version} {parts}'
  return Text(name, _hash('tfds-lines', identity), readers)


def stream(
  text: Text, split: str, tokenizer: Tokenizer, folder: str | Path
) -> Stream:
  """Returns the tokens of a split, made once and cached in `folder`.

  Raises:
    ValueError: the split is empty, a line cannot be read, no place to write.
  """
  key = f'text-{text.fingerprint}-{split}-{tokenizer.fingerprint}'
  place = Path(folder) / key
  return sealed.folder(place, _fill, _read, text, split, tokenizer)


def _fill(place, text, split, tokenizer):
  """Writes the tokens; returns their type and the other facts of a Stream."""
  bar = tqdm(text.lines(split), f'tokenising {split}', delay=1, disable=None)
  lines, texts = tee(line.strip() for line in bar)
  encoded = each(tokenizer.encode_batch, texts)
  words = characters = 0
  with open(place / 'tokens', 'wb') as file:
    for line, ids in zip(lines, encoded, strict=True):
      file.write(np.array([*ids, tokenizer.eos_id], tokenizer.dtype).tobytes())
      words += len(line.split()) + 1
      characters += len(line) + 1
  dtype = tokenizer.dtype.__name__
  return dict(dtype=dtype, words=words, characters=characters)


def _read(place, content):
  tokens = np.memmap(place / 'tokens', content['dtype'], 'r')
  return Stream(tokens, content['words'], content['characters'])


def _not_empty(lines, name, split):
  message = f'{name}: the split {split} is empty.'
  return text_lines.at_least_one(lines, message)


def _of_file(path, split):
  return _not_empty(text_lines.of_path(path), path, split)


def _part(paths, split):
  """Yields the lines of files whose checksum selects this split."""
  for path in paths:
    for line in text_lines.of_path(path):
      if by_checksum(line, 100) == split:
        yield line


def _hash(kind, text):
  return f'{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}'
