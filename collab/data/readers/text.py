# SPDX-License-Identifier: Apache-2.0
"""Running text by splits, and its tokens as one long sequence."""

from collections.abc import Callable
import functools
import hashlib
from itertools import chain, islice
from pathlib import Path
import platform
import re
from typing import NamedTuple
import zlib

import numpy as np
from tqdm import tqdm

from collab.data import cache
from collab.data.readers import prepared
from collab.data.readers.sources import SPLITS
from collab.io import text_lines

CHUNK = 8192  # lines tokenised at a time
WORDS = dict(train='train', val='val', valid='val', validation='val')
WORDS |= dict(dev='val', test='test')


class Text(NamedTuple):
  """Lines of text.

  Attributes:
    name: what it is, for people.
    fingerprint: changes when the text may have changed.
    readers: split -> function that starts an iterator of lines, as str without
      the end of line (see `text_lines`).
  """

  name: str
  fingerprint: str
  readers: dict[str, Callable]

  def lines(self, split):
    """Iterates over the lines of a split; a ValueError if it has none."""
    return _not_empty(self.readers[split](), self.name, split)


class Stream(NamedTuple):
  """Tokens of all lines one after another, <eos> after each line.

  Attributes:
    tokens: uint16 or uint32 [n].
    words: what blanks separate, and one for the end of each line: what the
      perplexity of a word counts, whatever the tokens are.
    characters: of the lines, and one for the end of each.
  """

  tokens: np.ndarray
  words: int
  characters: int


def read(corpus, path) -> Text:
  """Local files if there is a path, the sample, or a data set of TFDS."""
  if path:
    return local(path)
  return sample() if corpus == 'sample' else tfds(corpus)


def local(path) -> Text:
  """A folder of text files, in UTF-8, plain or .gz.

  Their names say the split: wiki.train.raw, ptb.valid.txt, test.txt.gz, ...
  (train; val, valid, validation or dev; test). If none does, all *.txt make one
  text, of which each line's checksum decides the split: 1 % each is val and
  test.

  Raises:
    ValueError: no folder, no file, a missing split or two files of one.
  """
  folder = Path(path)
  expected = (
    'Expected one file a split, e.g. wiki.train.raw, wiki.valid.raw and '
    'wiki.test.raw; or *.txt that name no split; plain or .gz.'
  )
  if not folder.is_dir():
    raise ValueError(f'{folder} is not a folder. {expected}')
  found = {}
  paths = sorted(p for p in folder.iterdir() if p.is_file())
  for p in paths:
    parts = re.split(r'[._-]', p.name)
    for split in dict.fromkeys(WORDS[x] for x in parts if x in WORDS):
      found.setdefault(split, []).append(p)
  if not found:
    paths = [p for p in paths if p.name.removesuffix('.gz').endswith('.txt')]
    if not paths:
      raise ValueError(f'{folder} has no text. {expected}')
    lines = functools.partial(_lines, paths)
    return Text(str(path), _identity(paths), _by_checksum(lines))
  for split in SPLITS:
    if len(got := found.get(split, [])) != 1:
      names = ', '.join(p.name for p in got) or 'nothing'
      raise ValueError(f'{folder} has {names} for {split}. {expected}')
  readers = {s: functools.partial(_of_file, found[s][0], s) for s in SPLITS}
  return Text(str(path), _identity(chain(*found.values())), readers)


def sample() -> Text:
  """English prose that ships with Python: what its help() says of topics.

  A topic's name decides its split, by a checksum: a tenth each is val and test.
  Topics quote each other: what val and test have of five words or more is left
  out of training, and what test has, out of val.
  """
  from pydoc_data.topics import topics

  parts = {split: [] for split in SPLITS}
  for name in sorted(topics):
    split = {0: 'test', 1: 'val'}.get(zlib.crc32(name.encode()) % 10, 'train')
    parts[split] += text_lines.of_bytes(topics[name].encode(), name)

  def lines(split):
    later = SPLITS[SPLITS.index(split) + 1 :]
    theirs = {line.strip() for x in later for line in parts[x]}
    for line in parts[split]:
      if len(line.split()) < 5 or line.strip() not in theirs:
        yield line

  readers = {split: functools.partial(lines, split) for split in SPLITS}
  return Text('sample', f'topics-{platform.python_version()}', readers)


def tfds(name) -> Text:
  """A data set of TFDS with a feature `text`, e.g. 'lm1b'.

  Without a validation or test split, the last and the last but one percent of
  training stand for it.
  """
  builder = prepared.builder(name, ('text',))
  splits = builder.info.splits
  val = 'validation' if 'validation' in splits else 'train[99%:]'
  test = 'test' if 'test' in splits else 'train[98%:99%]'
  train = 'train[:98%]' if 'train' in val + test else 'train'
  parts = dict(train=train, val=val, test=test)

  def lines(part):
    records = builder.as_data_source(split=part)
    for i in range(len(records)):
      name = f'{builder.info.full_name}, {part}, record {i}'
      yield from text_lines.of_bytes(records[i]['text'], name)

  readers = {split: functools.partial(lines, x) for split, x in parts.items()}
  identity = f'{name} {builder.version} {parts}'
  return Text(name, _hash('tfds-lines', identity), readers)


def stream(text, split, tokenizer, folder) -> Stream:
  """The tokens of a split, made once and then read from a cache in `folder`.

  Raises:
    ValueError: the split is empty, a line cannot be read, no place to write.
  """
  key = f'text-{text.fingerprint}-{split}-{tokenizer.fingerprint}'
  fill = functools.partial(_fill, text=text, split=split, tokenizer=tokenizer)
  return cache.complete(Path(folder) / key, fill, _open)


def _fill(place, text, split, tokenizer):
  lines = tqdm(text.lines(split), f'tokenising {split}', delay=1, disable=None)
  lines, dtype = iter(lines), cache.kind(tokenizer)
  words = characters = 0
  with open(place / 'tokens', 'wb') as file:
    while chunk := [line.strip() for line in islice(lines, CHUNK)]:
      ids = tokenizer.encode_batch(chunk)
      flat = chain.from_iterable([*x, tokenizer.eos_id] for x in ids)
      np.fromiter(flat, dtype).tofile(file)
      words += sum(len(line.split()) + 1 for line in chunk)
      characters += sum(len(line) + 1 for line in chunk)
  cache.seal(place, dtype=dtype.__name__, words=words, characters=characters)


def _open(place):
  content = cache.unseal(place)
  tokens = np.memmap(place / 'tokens', content['dtype'], 'r')
  return Stream(tokens, content['words'], content['characters'])


def _not_empty(lines, name, split):
  message = f'{name}: the split {split} is empty.'
  return text_lines.at_least_one(lines, message)


def _of_file(path, split):
  return _not_empty(text_lines.of_path(path), path, split)


def _lines(paths):
  for path in paths:
    yield from text_lines.of_path(path)


def _by_checksum(lines):
  """Readers of the three splits of one text."""

  def reader(split):
    for line in lines():
      part = zlib.crc32(line.encode()) % 100
      if {0: 'test', 1: 'val'}.get(part, 'train') == split:
        yield line

  return {split: functools.partial(reader, split) for split in SPLITS}


def _identity(paths):
  parts = []
  for p in paths:
    stat = p.stat()
    parts.append(f'{p.resolve()} {stat.st_size} {stat.st_mtime_ns}')
  return _hash('files', ' '.join(parts))


def _hash(kind, text):
  return f'{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}'
