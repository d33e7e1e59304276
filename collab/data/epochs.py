# SPDX-License-Identifier: Apache-2.0
"""Chooses the examples of each batch, for data with random access."""

from collections.abc import Callable
import functools

import numpy as np

from collab import checks


class Epochs:
  """The rows of each batch: every epoch is a permutation of all n examples.

  The epochs form one endless sequence. Batch s has its places s B to
  (s + 1) B - 1, so a batch may span two epochs and no example is left out. The
  rows are a function of (seed, step).
  """

  def __init__(
    self,
    n: int,
    batch_size: int,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
  ):
    """Plans the order.

    Args:
      n: number of examples.
      batch_size: B, rows of the global batch over all hosts.
      seed: seed of the order.
      shard: (index, count) of this host, which gets B / count adjacent places.

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
    """Returns int64 [B / count], this host's examples in batch `step`."""
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
  """Makes a function: epoch -> order of n examples in it, int64 [n]."""
  return functools.lru_cache(2)(
    lambda epoch: np.random.default_rng((seed, epoch)).permutation(n)
  )


def check(batch_size: int, shard: tuple[int, int]) -> None:
  """Raises ValueError if batches do not divide over the hosts."""
  index, count = shard
  assert 0 <= index < count, shard
  checks.at_least('data.batch_size', batch_size, 1)
  if batch_size % count:
    raise ValueError(
      f'data.batch_size={batch_size}; expected a multiple of the {count} hosts.'
    )


def part(i: int, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the i-th part of 0 to n - 1, cut into parts of `size`.

  Returns:
    rows int64 [size], padded with 0, and place int64 [size]: the rows, but -1
    for padding.
  """
  rows = i * size + np.arange(size)
  return np.where(rows < n, rows, 0), np.where(rows < n, rows, -1)
