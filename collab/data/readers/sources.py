# SPDX-License-Identifier: Apache-2.0
"""Reads parallel text by splits: local files, TFDS, or the bundled sample.

A Corpus is streamed: it is not held in memory, and a split can be read again.
"""

from collections.abc import Callable, Iterator
import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from collab.data.readers import parallel_files, prepared
from collab.data.samples import translation
from collab.data.splits import SPLITS
from collab.io import node_files, text_lines


class Corpus(NamedTuple):
  """Parallel text.

  Attributes:
    name: description for people: a path, a TFDS name, 'sample'.
    fingerprint: identifies the text for caches; changes when the text may have.
    readers: {split: function that starts an iterator of rows
      (source, target, category), all strings}.
    files: {split: names of its files with their sizes in bytes}.
    dropped: {file: number of empty lines}, for splits that were read to the
      end.
    expected: what to do when a split is missing, for errors.
  """

  name: str
  fingerprint: str
  readers: dict[str, Callable]
  files: dict[str, dict]
  dropped: dict[str, int]
  expected: str

  def rows(self, split: str) -> Iterator[tuple[str, str, str]]:
    """Iterates over (source, target, category) of a split.

    Pairs with an empty side are left out and counted (see `describe`). The
    category is the sample's, or the third column of a TAB-separated file, or
    ''.

    Raises:
      ValueError: there is no such split. While iterating: invalid UTF-8, a
        damaged file, sides of different length, a wrong number of columns, or
        no pair at all.
    """
    if split not in self.readers:
      raise ValueError(
        f"{self.name} has no split '{split}', only "
        f'{", ".join(self.readers)}. {self.expected}'
      )
    files = ' and '.join(self.files.get(split, ())) or self.name
    empty = f'{self.name}: the split {split} has no pairs ({files}).'
    return text_lines.at_least_one(self.readers[split](), empty)

  def pairs(self, split: str) -> Iterator[tuple[str, str]]:
    """Iterates over (source, target) of a split; errors as in `rows`."""
    return (row[:2] for row in self.rows(split))

  def describe(self) -> dict:
    """Returns name, fingerprint, files with bytes, and empty lines read."""
    return dict(
      name=self.name,
      fingerprint=self.fingerprint,
      files=self.files,
      empty_lines_dropped=dict(self.dropped),
    )


def sample() -> Corpus:
  """Makes the bundled English-German sample (see `translation`)."""

  def reader(split):
    return (pair[:3] for pair in translation.generate()[split])

  fingerprint = f'sample-{translation.fingerprint()}'
  readers = {split: functools.partial(reader, split) for split in SPLITS}
  return Corpus('sample', fingerprint, readers, {}, {}, '')


def parallel(
  path: str | Path, source: str, target: str, files: tuple[str, ...] = ()
) -> Corpus:
  """Reads local files, plain or .gz, one sentence a line, in UTF-8.

  A split is either two files, `train.SOURCE` and `train.TARGET`, or one
  TAB-separated file `train.tsv`: source, target and optionally a category. A
  name may have more between split and ending (`test_2016.en`), but exactly one
  candidate must match `train*`, one `val*` or `dev*`, and one `test*`.

  Args:
    path: the folder.
    source, target: languages as in the files' endings, e.g. 'en', 'de'.
    files: if given, only these are used: a tuple of
      'SPLIT=SOURCE_FILE,TARGET_FILE' or 'SPLIT=TSV_FILE', relative to path.

  Returns:
    A Corpus with the splits that were found.

  Raises:
    ValueError: no folder, no file, several candidates, or a side without the
      other.
  """
  folder = node_files.fetched(path)
  found, expected = parallel_files.find(folder, source, target, files)
  dropped, sizes, identity = {}, {}, hashlib.sha256()
  for split, paths in found.items():
    sizes[split] = {}
    for file in paths:
      stat = file.stat()
      sizes[split][os.path.relpath(file, folder)] = stat.st_size
      whole = f'{split} {file.resolve()} {stat.st_size} {stat.st_mtime_ns}'
      identity.update(whole.encode())
  fingerprint = f'files-{identity.hexdigest()[:16]}'
  readers = {
    split: functools.partial(parallel_files.read, paths, dropped)
    for split, paths in found.items()
  }
  return Corpus(str(path), fingerprint, readers, sizes, dropped, expected)


def tfds(name: str, source: str, target: str) -> Corpus:
  """Reads a translation data set of TFDS, e.g. 'wmt14_translate/de-en'.

  Args:
    name: TFDS name with its configuration.
    source, target: two of its features.

  Raises:
    ValueError: unknown name, not prepared, or no such languages.
  """
  builder = prepared.builder(name, (source, target))
  info, splits, dropped = builder.info, prepared.splits(builder), {}

  def reader(split):
    empty = 0
    for row in prepared.rows(builder, splits[split]):
      pair = [text_lines.one(row[x]).strip() for x in (source, target)]
      if all(pair):
        yield (*pair, '')
      else:
        empty += 1
    dropped[f'{name}:{splits[split]}'] = empty

  identity = ' '.join(
    [name, str(builder.version), source, target]
    + [f'{s}={info.splits[s].num_examples}' for s in splits.values()]
  )
  fingerprint = f'tfds-{hashlib.sha256(identity.encode()).hexdigest()[:16]}'
  readers = {split: functools.partial(reader, split) for split in splits}
  sizes = {
    ours: {f'{name}:{theirs}': info.splits[theirs].num_bytes}
    for ours, theirs in splits.items()
  }
  how = prepared.how(name)
  return Corpus(name, fingerprint, readers, sizes, dropped, how)
