# SPDX-License-Identifier: Apache-2.0
"""Tokenised pairs, in memory or in a folder that is complete or not there."""

from collections.abc import Iterable
import functools
from itertools import chain, islice
import json
import os
from pathlib import Path
import shutil
from typing import NamedTuple
import zlib

import numpy as np
from tqdm import tqdm

from collab.io import atomic, json_text

CHUNK = 8192  # pairs tokenised at a time


class Side(NamedTuple):
  """One language: sentence i is tokens[offsets[i]:offsets[i + 1]].

  Attributes:
    tokens: uint16 or uint32, the ids of all sentences, without <bos> and <eos>.
    offsets: int64 [N + 1].
  """

  tokens: np.ndarray
  offsets: np.ndarray

  @property
  def lengths(self):
    """Tokens of each sentence, int64 [N]."""
    return np.diff(self.offsets)


class Tokenized(NamedTuple):
  """Pairs of token sequences.

  Attributes:
    source, target: Sides of the same N sentences.
    info: of the corpus: see `Corpus.describe`.
  """

  source: Side
  target: Side
  info: dict

  def __len__(self):
    return len(self.source.offsets) - 1


def in_memory(pairs: Iterable, tokenizer) -> Tokenized:
  """Tokenises (source, target) strings, without a cache."""
  sides = ([], [])
  for ids in _encoded(pairs, tokenizer):
    for side, new in zip(sides, ids, strict=True):
      side.extend(new)
  dtype = kind(tokenizer)
  flat = [
    Side(
      np.fromiter(chain.from_iterable(side), dtype),
      np.cumsum([0, *map(len, side)], dtype=np.int64),
    )
    for side in sides
  ]
  return Tokenized(*flat, {})


def tokenized(corpus, split, tokenizer, folder, say=print) -> Tokenized:
  """Tokenises a split once; from then on it is read from the cache.

  A cache belongs to the corpus' fingerprint and the tokenizer's. It is written
  under another name and renamed when complete, and its sizes and checksums are
  looked at before it is used; one that does not agree is made anew.

  Args:
    corpus: a `sources.Corpus`.
    split: 'train', 'val' or 'test'.
    tokenizer: a `tokenizer.Tokenizer`.
    folder: where caches lie; made if need be.
    say: called with a line of text when a damaged cache is replaced.

  Returns:
    Tokenized, its arrays mapped from disk.

  Raises:
    ValueError: see `Corpus.rows`; no pairs; the folder cannot be written.
  """
  place = Path(folder) / f'{corpus.fingerprint}-{split}-{tokenizer.fingerprint}'
  fill = functools.partial(
    _fill, corpus=corpus, split=split, tokenizer=tokenizer
  )
  return complete(place, fill, _open, say)


def complete(place, fill, read, say=print):
  """Reads a folder that is complete; makes it if it is not there or damaged.

  It is filled under another name and renamed, so that a folder of the right
  name is whole, whoever was killed.

  Args:
    place: path of the folder.
    fill: function of an empty folder, which ends with `seal`.
    read: function of the folder, which begins with `unseal`.
    say: called with a line of text when a damaged folder is replaced.

  Returns:
    What `read` does.

  Raises:
    ValueError: the folder cannot be written.
  """
  if place.exists():
    try:
      return read(place)
    except (OSError, ValueError, LookupError, TypeError) as error:
      say(f'The cache {place} is damaged ({error}): making it anew.')
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic.beside(place) as new:
      new.mkdir()
      fill(new)
      shutil.rmtree(place, ignore_errors=True)  # damaged
      try:
        os.rename(new, place)
      except OSError:
        if not place.exists():  # another process was first: take its
          raise
    return read(place)
  except OSError as error:
    raise ValueError(f'Cannot write the cache {place}: {error}') from error


def seal(place, **content):
  """Writes content.json: `content`, and what the files must be."""
  files = {p.name: _checksum(p) for p in sorted(place.iterdir())}
  content |= dict(files=files)
  text = json.dumps(dict(content=content, crc32=_crc32(content)), indent=2)
  (place / 'content.json').write_text(text)


def unseal(place):
  """The content; a ValueError if a file is not what it was."""
  sealed = json_text.parse((place / 'content.json').read_text())
  content = sealed['content']
  if _crc32(content) != sealed['crc32']:
    raise ValueError('content.json is not what it was')
  for name, wanted in content['files'].items():
    if (got := _checksum(place / name)) != wanted:
      raise ValueError(f'{name} has bytes and checksum {got}, not {wanted}')
  return content


def checksum(*arrays):
  """Eight hexadecimal digits that change with any bit of the arrays."""
  crc = 0
  for x in arrays:
    crc = zlib.crc32(np.ascontiguousarray(x), crc)
  return f'{crc:08x}'


def _crc32(content):
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def kind(tokenizer):
  """The integers that hold its ids."""
  return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


def _encoded(pairs, tokenizer):
  """Yields (ids of sources, ids of targets) of CHUNK pairs at a time."""
  pairs = iter(pairs)
  while chunk := list(islice(pairs, CHUNK)):
    yield [tokenizer.encode_batch(texts) for texts in zip(*chunk, strict=True)]


def _fill(place, corpus, split, tokenizer):
  """Writes tokens and offsets of both sides, then what they must be."""
  dtype, lengths = kind(tokenizer), ([], [])
  bar = tqdm(
    corpus.pairs(split),
    f'tokenising {split}',
    unit=' pairs',
    delay=1,
    disable=None,
  )
  names = ('source', 'target')
  with (
    open(place / 'source.tokens', 'wb') as source,
    open(place / 'target.tokens', 'wb') as target,
  ):
    for chunk in _encoded(bar, tokenizer):
      for file, ids, side in zip((source, target), chunk, lengths, strict=True):
        np.fromiter(chain.from_iterable(ids), dtype).tofile(file)
        side.append(np.fromiter(map(len, ids), np.int64))
  for name, side in zip(names, lengths, strict=True):
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(side))])
    offsets.astype(np.int64).tofile(place / f'{name}.offsets')
  seal(place, dtype=dtype.__name__, info=corpus.describe())


def _open(place):
  """Maps a cache whose files are what content.json says."""
  content = unseal(place)
  sides = [
    Side(
      np.memmap(place / f'{side}.tokens', content['dtype'], 'r'),
      np.fromfile(place / f'{side}.offsets', np.int64),
    )
    for side in ('source', 'target')
  ]
  return Tokenized(*sides, content['info'])


def _checksum(path):
  """[size, crc32] of a file."""
  size, crc = 0, 0
  with open(path, 'rb') as file:
    while block := file.read(2**20):
      size, crc = size + len(block), zlib.crc32(block, crc)
  return [size, crc]
