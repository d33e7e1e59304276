# SPDX-License-Identifier: Apache-2.0
"""Parallel text by splits: local files, TFDS, or the bundled sample.

A Corpus streams: nothing is held in memory, a split can be read again.
"""

from collections.abc import Callable, Iterator
import functools
import hashlib
import os
from typing import NamedTuple

from collab.data import samples
from collab.data.readers import files as local
from collab.data.readers import prepared
from collab.io import text_lines

SPLITS = ('train', 'val', 'test')


class Corpus(NamedTuple):
  """Parallel text.

  Attributes:
    name: what it is, for people: a path, a TFDS name, 'sample'.
    fingerprint: changes when the text may have changed; for caches.
    readers: split -> function that starts an iterator of rows
      (source, target, category), all strings.
    files: split -> names of its files with their sizes in bytes.
    dropped: file -> empty lines, of the splits that were read to their end.
    expected: what to do when a split is missing, for the error.
  """

  name: str
  fingerprint: str
  readers: dict[str, Callable]
  files: dict[str, dict]
  dropped: dict[str, int]
  expected: str

  @property
  def splits(self):
    """Those of 'train', 'val' and 'test' that there are."""
    return tuple(self.readers)

  def rows(self, split) -> Iterator[tuple[str, str, str]]:
    """Iterates over (source, target, category) of a split.

    Pairs with an empty side are left out and counted (see `describe`). The
    category is the sample's, the third column of a TAB-separated file, or ''.

    Raises:
      ValueError: there is no such split; and while iterating: invalid UTF-8, a
        damaged file, sides of different length, a wrong number of columns, no
        pair at all.
    """
    if split not in self.readers:
      raise ValueError(
        f"{self.name} has no split '{split}', only "
        f'{", ".join(self.splits)}. {self.expected}'
      )
    files = ' and '.join(self.files.get(split, ())) or self.name
    empty = f'{self.name}: the split {split} has no pairs ({files}).'
    return text_lines.at_least_one(self.readers[split](), empty)

  def pairs(self, split) -> Iterator[tuple[str, str]]:
    """Iterates over (source, target) of a split; errors as `rows`."""
    return (row[:2] for row in self.rows(split))

  def categories(self, split) -> list[str]:
    """The category of each pair of a split, in order; errors as `rows`."""
    return [row[2] for row in self.rows(split)]

  def describe(self) -> dict:
    """Name, fingerprint, files with bytes, and empty lines of what was read."""
    return dict(
      name=self.name,
      fingerprint=self.fingerprint,
      files=self.files,
      empty_lines_dropped=dict(self.dropped),
    )


def sample() -> Corpus:
  """The bundled English-German sample (see `samples`)."""

  def reader(split):
    return (pair[:3] for pair in samples.generate()[split])

  return Corpus(
    name='sample',
    fingerprint=f'sample-{samples.fingerprint()}',
    readers={s: functools.partial(reader, s) for s in SPLITS},
    files={},
    dropped={},
    expected='',
  )


def parallel(path, source, target, files=()) -> Corpus:
  """Local files, plain or .gz, one sentence a line, in UTF-8.

  A split is either two files, `train.SOURCE` and `train.TARGET`, or one
  TAB-separated file `train.tsv`: source, target and, if one likes, a category.
  What stands between the split and the ending is free (`test_2016.en`), but
  exactly one candidate must match `train*`, one `val*` or `dev*`, one `test*`.

  Args:
    path: the folder.
    source, target: languages as the files' endings have them, e.g. 'en', 'de'.
    files: if given, nothing else is looked for: a tuple of
      'SPLIT=SOURCE_FILE,TARGET_FILE' or 'SPLIT=TSV_FILE', relative to path.

  Returns:
    A Corpus with the splits that were found.

  Raises:
    ValueError: no folder, no file, several candidates, a lone side.
  """
  found, expected = local.find(path, source, target, files)
  dropped, sizes, identity = {}, {}, hashlib.sha256()
  for split, paths in found.items():
    sizes[split] = {}
    for file in paths:
      stat = file.stat()
      sizes[split][os.path.relpath(file, path)] = stat.st_size
      whole = f'{split} {file.resolve()} {stat.st_size} {stat.st_mtime_ns}'
      identity.update(whole.encode())
  return Corpus(
    name=str(path),
    fingerprint=f'files-{identity.hexdigest()[:16]}',
    readers={
      split: functools.partial(local.read, paths, dropped)
      for split, paths in found.items()
    },
    files=sizes,
    dropped=dropped,
    expected=expected,
  )


def tfds(name, source, target, data_dir=None) -> Corpus:
  """A translation data set of TFDS, e.g. 'wmt14_translate/de-en'.

  Args:
    name: TFDS name with its configuration.
    source, target: two of its features.
    data_dir: where TFDS keeps its data; None is TFDS' default.

  Raises:
    ValueError: unknown name, not prepared, or no such languages.
  """
  builder = prepared.builder(name, (source, target), data_dir)
  info = builder.info
  splits = {'train': 'train', 'val': 'validation', 'test': 'test'}
  splits = {
    ours: theirs for ours, theirs in splits.items() if theirs in info.splits
  }
  dropped = {}

  def reader(split):
    records = builder.as_data_source(split=splits[split])
    empty = 0
    for index in range(len(records)):
      row = records[index]
      pair = [
        text_lines.one(row[side].decode()).strip() for side in (source, target)
      ]
      if all(pair):
        yield (*pair, '')
      else:
        empty += 1
    dropped[f'{name}:{splits[split]}'] = empty

  identity = ' '.join(
    [name, str(builder.version), source, target]
    + [f'{s}={info.splits[s].num_examples}' for s in splits.values()]
  )
  return Corpus(
    name=name,
    fingerprint='tfds-' + hashlib.sha256(identity.encode()).hexdigest()[:16],
    readers={split: functools.partial(reader, split) for split in splits},
    files={
      ours: {f'{name}:{theirs}': info.splits[theirs].num_bytes}
      for ours, theirs in splits.items()
    },
    dropped=dropped,
    expected=prepared.how(name, data_dir),
  )
