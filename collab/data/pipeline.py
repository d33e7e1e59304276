# SPDX-License-Identifier: Apache-2.0
"""Batches of translation: packed rows to train, one pair a row to evaluate.

Axes: R rows of a batch, L tokens of a row. Every batch is a dict of
  source            int32 [R, L]: tokens, <eos> after each sentence
  target_inputs     int32 [R, L]: <bos>, then the tokens
  labels            int32 [R, L]: the tokens, then <eos>
  source_segments, target_segments    int32 [R, L]: 1, 2, ... for the pairs of a
                    row, 0 for padding
  source_positions, target_positions  int32 [R, L]: 0, 1, ... in each pair
  weights           float32 [R, L]: 1 where labels count
Padding is 0 everywhere.
"""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from collab import checks
from collab.data import epochs, packing
from collab.data.cache import Side, Tokenized
from collab.data.tokenizer import BOS, EOS

POLICIES = ('drop', 'truncate')


class PackedPairs:
  """Training batches: `batch(step)` is a function of (seed, step) alone.

  An epoch has `steps_per_epoch` batches. The rows % batch_size rows that do not
  fill a batch are left out; each epoch leaves out different ones.

  Attributes:
    steps_per_epoch: number of batches in every epoch.
    rows: rows of an epoch, including those that are left out.
    statistics: figures for the summary at the start.
  """

  def __init__(
    self,
    tokenized: Tokenized,
    row_length: int,
    batch_size: int,
    seed: int = 0,
    too_long: str = 'drop',
    shard: tuple[int, int] = (0, 1),
  ):
    """Plans the rows; takes two seconds for 4.5 million pairs.

    Args:
      tokenized: the pairs.
      row_length: tokens of a row, for the source and for the target.
      batch_size: rows of the global batch, over all hosts.
      seed: seed of the order.
      too_long: what happens to pairs with more than row_length - 1 tokens on a
        side: 'drop' leaves them out, 'truncate' cuts them and keeps <eos>.
      shard: (index, count) of this host: it gets rows index * R to
        (index + 1) * R - 1 of the global batch, R = batch_size / count.

    Raises:
      ValueError: an argument is impossible, or there are fewer rows than a
        batch.
    """
    checks.at_least('data.row_length', row_length, 2)
    epochs.check(batch_size, shard)
    checks.one_of('data.too_long', too_long, POLICIES)
    limit = row_length - 1
    real = np.stack([tokenized.source.lengths, tokenized.target.lengths])
    over = (real > limit).any(0)
    lengths = np.minimum(real, limit) + 1  # [2, N], including <bos> or <eos>
    if too_long == 'drop':
      lengths[:, over] = 0
    self._plan = packing.plan(lengths, row_length, seed)
    self.rows = self._plan.rows
    self._sides, self._lengths = (tokenized.source, tokenized.target), lengths
    self._length, self._batch_size = row_length, batch_size
    self._shard = shard
    self._order = epochs.orders(self.rows, seed)
    self.steps_per_epoch = self.rows // batch_size
    if not self.steps_per_epoch:
      raise ValueError(
        f'{len(self._plan.pairs)} pairs fill {self.rows} rows of {row_length} '
        f'tokens; a batch has {batch_size} ({int(over.sum())} pairs are too '
        f'long, data.too_long={too_long}).'
      )
    padding = 1 - lengths.sum(1) / (self.rows * row_length)
    self.statistics = dict(
      pairs=len(tokenized),
      packed=len(self._plan.pairs),
      too_long=int(over.sum()),
      too_long_policy=too_long,
      rows=self.rows,
      pairs_per_row=len(self._plan.pairs) / self.rows,
      source_padding=float(padding[0]),
      target_padding=float(padding[1]),
      steps_per_epoch=self.steps_per_epoch,
      rows_left_out_per_epoch=self.rows % batch_size,
    )

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """This host's slice of the global batch of a step (0, 1, ...)."""
    pairs, counts = self._at(step)
    return _assemble(
      self._sides, pairs, self._lengths[:, pairs], counts, self._length
    )

  def pairs(self, step: int) -> np.ndarray:
    """Returns the pairs of this host's slice, row after row: int64 [P]."""
    return self._at(step)[0]

  def _at(self, step):
    """Returns the pairs of a batch, int64 [P], and of each row, int64 [R]."""
    epoch, index = divmod(step, self.steps_per_epoch)
    host, hosts = self._shard
    R = self._batch_size // hosts
    begin = index * self._batch_size + host * R
    rows = self._order(epoch)[begin : begin + R]
    starts = self._plan.starts[rows]
    counts = self._plan.starts[rows + 1] - starts
    return self._plan.pairs[_ranges(starts, counts)], counts


def eval_batch(
  tokenized: Tokenized, row_length: int, pairs: np.ndarray
) -> dict[str, np.ndarray]:
  """Makes a batch for an evaluation, with one pair a row.

  Pairs that are too long are cut, because an evaluation leaves nothing out.

  Args:
    tokenized: the pairs.
    row_length: tokens of a row.
    pairs: int [R], the pair of each row.
  """
  sides = tokenized.source, tokenized.target
  real = [side.lengths[pairs] for side in sides]
  lengths = np.minimum(real, row_length - 1) + 1
  return _assemble(sides, pairs, lengths, np.ones_like(pairs), row_length)


def stream(
  batch: Callable, first: int, last: int, ahead: int = 4
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batch(first), ..., batch(last - 1) in order, prefetched.

  A thread of Grain makes the batches while the device works. It ends with the
  iteration, or when the generator is closed or deleted. An error in `batch` is
  raised at its step.

  Args:
    batch: function of a step.
    first, last: first step, and the step after the last one.
    ahead: maximum number of prefetched batches.
  """
  steps = grain.MapDataset.range(first, last).map(batch)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
  iterator = iter(steps.to_iter_dataset(options))
  try:
    yield from iterator
  finally:
    iterator.close()


def _ranges(starts, counts):
  """Concatenates ranges starts[i], ..., starts[i] + counts[i] - 1: int64."""
  ends = np.cumsum(counts)
  return np.arange(ends[-1] if len(ends) else 0) + np.repeat(
    starts - ends + counts, counts
  )


def _assemble(sides: tuple[Side, Side], pairs, lengths, counts, L):
  """Places pairs into rows.

  Args:
    sides: source and target.
    pairs: int64 [P], row after row.
    lengths: int64 [2, P], tokens of each pair, including <bos> or <eos>.
    counts: int64 [R], pairs of each row.
    L: tokens of a row.
  """
  R = len(counts)
  row = np.repeat(np.arange(R), counts)  # the row of each pair
  first = np.cumsum(counts) - counts
  segment = np.arange(len(pairs)) - first[row] + 1
  batch = {}

  def empty(key, kind=np.int32):
    batch[key] = np.zeros((R, L), kind)
    return batch[key].reshape(-1)

  for name, side, n in zip(('source', 'target'), sides, lengths, strict=True):
    before = np.cumsum(n) - n
    begin = row * L + before - np.append(before, 0)[first][row]  # in the batch
    place = _ranges(begin, n)
    within = place - np.repeat(begin, n)
    ends = begin + n - 1
    empty(f'{name}_segments')[place] = np.repeat(segment, n)
    empty(f'{name}_positions')[place] = within
    words = _ranges(side.offsets[pairs], n - 1)
    tokens = empty('labels' if name == 'target' else 'source')
    body = np.delete(place, np.cumsum(n) - 1)
    tokens[body] = side.tokens[words]
    tokens[ends] = EOS
    if name == 'target':
      inputs = empty('target_inputs')
      inputs[body + 1] = tokens[body]
      inputs[begin] = BOS
      empty('weights', np.float32)[place] = 1
  return batch
