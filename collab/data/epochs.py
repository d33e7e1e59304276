# SPDX-License-Identifier: Apache-2.0
"""Which examples make a batch, for data that is looked up by index."""

import functools

import numpy as np


class Epochs:
  """Rows of batch `step`: epoch after epoch, each a permutation of all n.

  Batch s has places s B to (s + 1) B - 1 of this endless sequence, so a batch
  may lie in two epochs and nothing is left out. A function of (seed, step).
  """

  def __init__(self, n, batch_size, seed=0, shard=(0, 1)):
    """Plans.

    Args:
      n: number of examples.
      batch_size: B of the global batch, over all hosts.
      seed: of the order.
      shard: (index, count) of this host: it gets B / count places in a row.

    Raises:
      ValueError: an argument that is impossible.
    """
    index, count = shard
    if n < 1:
      raise ValueError('There are no examples to make batches of.')
    if not 0 <= index < count:
      raise ValueError(
        f'shard is {shard}, expected (index, count), index < count.'
      )
    if batch_size < 1 or batch_size % count:
      raise ValueError(
        f'batch_size is {batch_size}, expected a multiple of the {count} hosts.'
      )
    self._n, self._batch_size, self._shard = n, batch_size, shard
    self.steps_per_epoch = n / batch_size
    self._order = functools.lru_cache(2)(
      lambda epoch: np.random.default_rng((seed, epoch)).permutation(n)
    )

  def __call__(self, step) -> np.ndarray:
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


def part(i, n, size):
  """The i-th of the parts of `size` that 0 to n - 1 are cut into.

  Returns:
    rows int64 [size], filled up with 0, and place int64 [size]: the rows, but
    -1 for those that fill up.
  """
  rows = i * size + np.arange(size)
  return np.where(rows < n, rows, 0), np.where(rows < n, rows, -1)
