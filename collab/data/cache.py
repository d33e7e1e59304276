# SPDX-License-Identifier: Apache-2.0
"""Caches tokenised parallel text on disk, so that it is tokenised once."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple
import zlib

import numpy as np
from tqdm import tqdm

from collab.data import tokenizer as tokenizers
from collab.data.readers.sources import Corpus
from collab.io import sealed

SIDES = ('source', 'target')


class Side(NamedTuple):
  """One language: sentence i is tokens[offsets[i]:offsets[i + 1]].

  Attributes:
    tokens: uint16 or uint32, the ids of all sentences, without <bos> and <eos>.
    offsets: int64 [N + 1].
  """

  tokens: np.ndarray
  offsets: np.ndarray

  @property
  def lengths(self) -> np.ndarray:
    """The number of tokens of each sentence, int64 [N]."""
    return np.diff(self.offsets)


class Tokenized(NamedTuple):
  """A corpus as pairs of token sequences.

  Attributes:
    source, target: Sides of the same N sentences.
    info: description of the corpus, see `Corpus.describe`.
  """

  source: Side
  target: Side
  info: dict

  def __len__(self):
    return len(self.source.offsets) - 1


def tokenized(
  corpus: Corpus,
  split: str,
  tokenizer: tokenizers.Tokenizer,
  folder: str | Path,
) -> Tokenized:
  """Reads a tokenised split from the cache, and fills the cache if needed.

  A cache is valid for one fingerprint of the corpus and one of the tokenizer. A
  damaged cache is replaced, see `sealed.folder`.

  Args:
    corpus: a `sources.Corpus`.
    split: 'train', 'val' or 'test'.
    tokenizer: a `tokenizer.Tokenizer`.
    folder: folder of the caches, created if it is missing.

  Returns:
    Tokenized; its tokens are memory-mapped.

  Raises:
    ValueError: see `Corpus.rows`; no pairs; the folder cannot be written.
  """
  place = Path(folder) / f'{corpus.fingerprint}-{split}-{tokenizer.fingerprint}'
  return sealed.folder(place, _fill, _read, corpus, split, tokenizer)


def checksum(*arrays: np.ndarray) -> str:
  """Hashes arrays: eight hexadecimal digits that change with any bit."""
  crc = 0
  for x in arrays:
    crc = zlib.crc32(np.ascontiguousarray(x), crc)
  return f'{crc:08x}'


def _fill(place, corpus, split, tokenizer):
  """Writes the tokens and the offsets of both sides."""
  lengths = [], []
  what, pairs = f'tokenising {split}', corpus.pairs(split)
  pairs = tqdm(pairs, what, unit=' pairs', delay=1, disable=None)
  encoded = tokenizers.each(tokenizer.encode_batch, chain.from_iterable(pairs))
  with (
    open(place / 'source.tokens', 'wb') as source,
    open(place / 'target.tokens', 'wb') as target,
  ):
    files = source, target
    for pair in zip(encoded, encoded, strict=True):  # the two texts alternate
      for ids, file, side in zip(pair, files, lengths, strict=True):
        file.write(np.array(ids, tokenizer.dtype).tobytes())
        side.append(len(ids))
  for name, side in zip(SIDES, lengths, strict=True):
    np.cumsum([0, *side], dtype=np.int64).tofile(place / f'{name}.offsets')
  return dict(dtype=tokenizer.dtype.__name__, info=corpus.describe())


def _read(place, content):
  """Opens the pairs in a folder that `_fill` has written."""
  sides = [
    Side(
      np.memmap(place / f'{side}.tokens', content['dtype'], 'r'),
      np.fromfile(place / f'{side}.offsets', np.int64),
    )
    for side in SIDES
  ]
  return Tokenized(*sides, content['info'])
