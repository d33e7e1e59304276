# SPDX-License-Identifier: Apache-2.0
"""Packs several pairs into rows of fixed length.

The plan is a function of the lengths and the seed alone. Pairs are shuffled
once and cut into windows. In each window they are placed from the longest to
the shortest, each into the first row where both its sides fit (first-fit
decreasing). NumPy advances all windows together, one pair each. Epochs then
shuffle the rows. The pairs of a row stay together, which makes no difference to
a model that does not attend across pairs. In return every epoch has the same
number of rows, and any batch of any epoch can be made alone.
"""

from typing import NamedTuple

import numpy as np

WINDOW = 1024  # pairs; with 256, rows would be 1% emptier
TOGETHER = 128  # windows at a time, so that their free space fits the CPU cache


class Plan(NamedTuple):
  """Rows of pairs: row r holds pairs[starts[r]:starts[r + 1]].

  Attributes:
    pairs: int64 [N], indices of pairs, each at most once.
    starts: int64 [rows + 1].
  """

  pairs: np.ndarray
  starts: np.ndarray

  @property
  def rows(self) -> int:
    """The number of rows."""
    return len(self.starts) - 1


def plan(lengths: np.ndarray, row_length: int, seed: int) -> Plan:
  """Packs pairs into rows of row_length tokens a side.

  Args:
    lengths: int [2, N], tokens of the source and the target of each pair,
      including <bos> or <eos>, 1..row_length. 0 on both sides leaves the pair
      out.
    row_length: tokens in a row.
    seed: an int.

  Returns:
    A Plan with every pair that is not left out.
  """
  assert ((lengths >= 0) & (lengths <= row_length)).all(), lengths
  order = np.random.default_rng(seed).permutation(lengths.shape[1])
  order = order[lengths[:, order].min(0) > 0]
  step = WINDOW * TOGETHER
  kind = np.int16 if row_length < 2**15 else np.int32
  pairs, rows, used = [], [], 0
  for begin in range(0, len(order), step):
    chunk = order[begin : begin + step]
    # [windows, WINDOW]: pairs of length 0 pad the last window.
    chunk = np.pad(chunk, (0, -len(chunk) % WINDOW), constant_values=-1)
    chunk = chunk.reshape(-1, WINDOW)
    sides = np.where(chunk < 0, 0, lengths[:, chunk]).astype(kind)
    longest_first = np.argsort(-sides.max(0), axis=1, kind='stable')
    chunk = np.take_along_axis(chunk, longest_first, 1)
    sides = np.take_along_axis(sides, longest_first[None], 2)
    bins = _first_fit(*sides, row_length)
    opened = np.where(chunk < 0, -1, bins).max(1) + 1
    bins += (used + np.cumsum(opened) - opened)[:, None]
    used += opened.sum()
    pairs.append(chunk[chunk >= 0])
    rows.append(bins[chunk >= 0])
  pairs = np.concatenate([np.zeros(0, np.int64), *pairs])
  rows = np.concatenate([np.zeros(0, np.int64), *rows])
  starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=used))])
  return Plan(pairs[np.argsort(rows, kind='stable')], starts.astype(np.int64))


def _first_fit(source, target, row_length):
  """Finds each pair's row in its window: int64 [windows, WINDOW].

  source, target: lengths [windows, WINDOW], in the order of placement.
  """
  windows, size = source.shape
  free = np.full((2, windows, size), row_length, source.dtype)
  rows = np.zeros((windows, size), np.int64)
  every, opened = np.arange(windows), 0
  for i in range(size):
    s, t = source[:, i], target[:, i]
    # Rows beyond `opened` are empty, so the first of these always fits.
    room = free[:, :, : opened + 1]
    row = ((room[0] >= s[:, None]) & (room[1] >= t[:, None])).argmax(1)
    free[0, every, row] -= s
    free[1, every, row] -= t
    rows[:, i] = row
    opened = min(max(opened, row.max() + 1), size - 1)
  return rows
