# SPDX-License-Identifier: Apache-2.0
"""Which examples make a batch, for data that is looked up by index."""

from collections.abc import Callable
import functools

import numpy as np


class Epochs:
  """Rows of batch `step`: epoch after epoch, each a permutation of all n.

  Batch s has places s B to (s + 1) B - 1 of this endless sequence, so a batch
  may lie in two epochs and nothing is left out. A function of (seed, step).
  """

  def __init__(
    self,
    n: int,
    batch_size: int,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
  ):
    """Plans.

    Args:
      n: number of examples.
      batch_size: B of the global batch, over all hosts.
      seed: of the order.
      shard: (index, count) of this host: it gets B / count places in a row.

    Raises:
      ValueError: an argument that is impossible.
    """
    if n < 1:
      raise ValueError('There are no examples to make batches of.')
    check(batch_size, shard)
    self._n, self._batch_size, self._shard = n, batch_size, shard
    self.steps_per_epoch = n / batch_size
    self._order = orders(n, seed)

  def __call__(self, step: int) -> np.ndarray:
    """Indices int64 [B / count] of this host's part of batch `step`."""
    host, hosts = self._shard
    R = self._batch_size // hosts
    places = step * self._batch_size + host * R + np.arange(R)
    epochs, within = np.divmod(places, self._n)
    found = np.empty(R, np.int64)
    for epoch in np.unique(epochs):
      mine = epochs == epoch
      found[mine] = self._order(int(epoch))[within[mine]]
    return found


def orders(n: int, seed: int) -> Callable[[int], np.ndarray]:
  """A function of an epoch -> the order of n examples in it, int64 [n]."""
  return functools.lru_cache(2)(
    lambda epoch: np.random.default_rng((seed, epoch)).permutation(n)
  )


def check(batch_size: int, shard: tuple[int, int]):
  """Raises ValueError if batches cannot be shared out to the hosts."""
  index, count = shard
  if not 0 <= index < count:
    raise ValueError(
      f'shard is {shard}, expected (index, count), index < count.'
    )
  if batch_size < 1 or batch_size % count:
    raise ValueError(
      f'batch_size is {batch_size}, expected a multiple of the {count} hosts.'
    )


def part(i: int, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The i-th of the parts of `size` that 0 to n - 1 are cut into.

  Returns:
    rows int64 [size], padded with 0, and place int64 [size]: the rows, but -1
    where they are padding.
  """
  rows = i * size + np.arange(size)
  return np.where(rows < n, rows, 0), np.where(rows < n, rows, -1)
