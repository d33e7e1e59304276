# SPDX-License-Identifier: Apache-2.0
"""Rows of one text or two: layout, truncation, padding."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.data import examples, tokenizer
from collab.data.tokenizer import BOS, EOS, PAD


class Letters:
  """A tokenizer of which every letter is a token."""

  bos_id, eos_id, between = 1, 2, (2,)

  def encode_batch(self, texts):
    return [[ord(c) for c in text] for text in texts]


def encode(texts, row_length=11):
  return examples.encode(texts, Letters(), row_length)


def row(rows, i):
  return rows.tokens[rows.offsets[i] : rows.offsets[i + 1]].tolist()


def test_layout():
  rows = encode([('ab',), ('ab', 'c'), ('', ''), ('',)])
  a, b, c = map(ord, 'abc')
  assert [row(rows, i) for i in range(4)] == [
    [BOS, a, b, EOS],
    [BOS, a, b, EOS, c, EOS],
    [BOS, EOS, EOS],
    [BOS, EOS],
  ]
  batch = examples.pad(rows, [1, 0, 3], 7)
  assert batch['tokens'].tolist() == [
    [BOS, a, b, EOS, c, EOS, PAD],
    [BOS, a, b, EOS, PAD, PAD, PAD],
    [BOS, EOS, PAD, PAD, PAD, PAD, PAD],
  ]
  assert batch['types'].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0] * 7, [0] * 7]
  assert batch['lengths'].tolist() == [6, 4, 2]
  assert all(x.dtype == np.int32 for x in batch.values())
  assert rows.truncated == 0


def test_choices():
  rows = encode([('a', 'b'), ('a', 'cc'), ('d', 'e'), ('d', 'ff')])
  flat = examples.pad(rows, [2, 3, 0, 1], 7)
  choices = examples.pad(rows, [[2, 3], [0, 1]], 7)
  for name, x in choices.items():
    np.testing.assert_array_equal(x.reshape(4, *x.shape[2:]), flat[name])
  assert choices['tokens'].shape == (2, 2, 7)


def by_hand(a, b, room):
  """One token after another off the longer, of the second if equal."""
  while a + b > room:
    if a > b:
      a -= 1
    else:
      b -= 1
  return a, b


@given(st.integers(0, 29), st.integers(0, 29), st.integers(0, 31))
def test_truncation_is_longest_first(a, b, room):
  assert examples.truncate(a, b, room=room) == by_hand(a, b, room)
  assert examples.truncate(a, room=room) == (min(a, room),)


def test_truncated_rows():
  rows = encode([('a' * 20,), ('a' * 20, 'b'), ('a' * 9, 'b' * 7), ('a',)], 11)
  assert rows.lengths.tolist() == [11, 11, 11, 3]
  assert rows.truncated == 3
  texts = [''.join(map(chr, row(rows, i))) for i in range(3)]
  assert [(t.count('a'), t.count('b')) for t in texts] == [
    (9, 0),
    (7, 1),
    (4, 4),
  ]
  assert all(row(rows, i)[-1] == EOS for i in range(4))


def test_chunks_do_not_matter(monkeypatch):
  texts = [('a' * n, 'b' * (n % 3)) for n in range(13)]
  whole = encode(texts)
  monkeypatch.setattr(tokenizer, 'CHUNK', 3)
  for a, b in zip(whole, encode(iter(texts)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_width_is_a_power_of_two():
  rows = encode([('a' * n,) for n in (2, 3, 6, 9)], 11)
  assert [examples.width(rows, [i], 11) for i in range(4)] == [4, 8, 8, 11]
  assert examples.width(rows, [[0], [2]], 64) == 8


def test_errors():
  with pytest.raises(ValueError, match=r'^data\.row_length=4; expected at le'):
    encode([('a',)], 4)
  with pytest.raises(AssertionError):
    examples.pad(encode([('ab',)]), [0], 3)


def test_two_separators_of_roberta():
  class Roberta(Letters):
    between = (2, 2)

  rows = examples.encode([('ab', 'c'), ('ab',)], Roberta(), 11)
  assert row(rows, 0) == [1, ord('a'), ord('b'), 2, 2, ord('c'), 2]
  assert row(rows, 1) == [1, ord('a'), ord('b'), 2]
  assert rows.second[0] == 5
  (full,) = examples.encode([('a' * 9, 'b' * 9)], Roberta(), 11).lengths
  assert full == 11
