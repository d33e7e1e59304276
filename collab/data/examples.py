# SPDX-License-Identifier: Apache-2.0
"""Encodes one or two texts as a row of an encoder.

    <bos> a <eos>   or   <bos> a <eos> b <eos>        (BERT's CLS and SEP)

Types are 0 up to the first <eos> and 1 after it. RoBERTa has <eos> twice
between a and b. Axes: N rows, B of them in a batch, L tokens of a padded row.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from collab import checks
from collab.data.tokenizer import PAD, Tokenizer, each


class Example(NamedTuple):
  """A labelled example of one or several texts.

  Attributes:
    texts: one or two texts; for a choice among C, the premise and C choices.
    label: id of the class or choice, or a number (regression).
    group: id of the question that several examples belong to.
    extra: what else the metric needs.
  """

  texts: tuple[str, ...]
  label: float
  group: Any = None
  extra: Any = None


class Parts(NamedTuple):
  """The examples of a data set by its published parts.

  Attributes:
    readers: {part: function that starts an iterator of Examples}; one part is
      'train'.
    val, test: {name in the metrics: part} that each of the two evaluates.
    skipped: {path: rows left out} of the files that were read to their end.
  """

  readers: dict[str, Callable]
  val: dict[str, str]
  test: dict[str, str]
  skipped: dict[str, int]


class Rows(NamedTuple):
  """Rows of tokens without padding: row i is tokens[offsets[i]:offsets[i + 1]].

  Attributes:
    tokens: int32, the ids of all rows.
    offsets: int64 [N + 1].
    second: int32 [N], position in the row where type 1 begins.
    truncated: number of rows that were too long.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  second: np.ndarray
  truncated: int = 0

  def __len__(self):
    return len(self.second)

  @property
  def lengths(self) -> np.ndarray:
    """The number of tokens of each row, int64 [N]."""
    return np.diff(self.offsets)


def collect(rows: Iterable) -> Rows:
  """Collects Rows from an iterator of (token ids, position of type 1)."""
  tokens, ends, second = [], [0], []
  for ids, place in rows:
    tokens.append(np.asarray(ids, np.int32))
    ends.append(len(ids))
    second.append(place)
  return Rows(
    np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
    np.cumsum(ends, dtype=np.int64),
    np.asarray(second, np.int32),
  )


def encode(
  texts: Iterable[tuple], tokenizer: Tokenizer, row_length: int
) -> Rows:
  """Tokenises tuples of one or two texts; `truncate` shortens long ones.

  Raises:
    ValueError: row_length has no room for a token of each text.
  """
  why = ': three special tokens and one of each text'
  checks.at_least('data.row_length', row_length, 5, why)
  truncated, texts = 0, list(texts)
  encoded = each(tokenizer.encode_batch, chain.from_iterable(texts))

  def rows():
    nonlocal truncated
    for row in texts:
      sides = [next(encoded) for _ in row]
      special = 2 + len(tokenizer.between) * (len(sides) - 1)
      kept = truncate(*map(len, sides), room=row_length - special)
      truncated += kept != tuple(map(len, sides))
      first, *second = (x[:n] for x, n in zip(sides, kept, strict=True))
      ids = [tokenizer.bos_id, *first]
      begin = len(ids) + len(tokenizer.between)
      for side in second:
        ids += [*tokenizer.between, *side]
      yield [*ids, tokenizer.eos_id], begin

  tokens, offsets, second, _ = collect(rows())
  return Rows(tokens, offsets, second, truncated)


def truncate(*lengths: int, room: int) -> tuple[int, ...]:
  """Computes how many tokens of one text, or of two, fit into the room.

  With two, one token after another is removed from the end of the longer one
  (of the second if they are equal), until both fit.

  Args:
    lengths: lengths of the texts, one or two numbers.
    room: number of tokens for all of them.
  """
  if sum(lengths) <= room:
    return lengths
  if len(lengths) == 1:
    return (room,)
  a, b = lengths
  b = max(room - a, min(b, room // 2))
  return room - b, b


def pad(rows: Rows, indices: np.ndarray, length: int) -> dict:
  """Pads rows to a batch of an encoder.

  Args:
    rows: Rows.
    indices: int [B], or [B, C] for choices.
    length: L, at least the length of the longest.

  Returns:
    dict of int32: tokens and types [B, L] (or [B, C, L]), lengths [B] ([B, C]).
  """
  indices = np.asarray(indices)
  begin, lengths = rows.offsets[indices], rows.lengths[indices]
  assert lengths.max(initial=0) <= length, (lengths, length)
  places = np.arange(length)
  real = places < lengths[..., None]
  at = np.where(real, begin[..., None] + places, 0)
  second = rows.second[indices][..., None]
  return dict(
    tokens=np.where(real, rows.tokens[at], np.int32(PAD)),
    types=(real & (places >= second)).astype(np.int32),
    lengths=lengths.astype(np.int32),
  )


def width(rows: Rows, indices: np.ndarray, most: int) -> int:
  """Returns the power of two that holds the longest row, at most `most`.

  Evaluations use it, because they run faster with few short programs than with
  one long one.
  """
  longest = int(rows.lengths[np.asarray(indices)].max())
  return min(1 << (longest - 1).bit_length(), most)
