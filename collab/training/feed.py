# SPDX-License-Identifier: Apache-2.0
"""How long the devices had nothing to do because their input was late."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


class Feed:
  """Passes batches to a loop that keeps the devices a step ahead.

    lost = sum over steps of max(0, came - max(asked, done))

  asked: when the loop began to wait for the step's batch. came: when the batch
  was on its way to the devices. done: when this process' devices had finished
  the step before, whenever the loop looks. So a wait in which they compute is
  no loss, nor is what the loop does besides waiting: evaluation, say. Before
  the first step the devices have nothing to do. The transfer itself does not
  count, as it need not have ended when the batch has come.
  """

  def __init__(self):
    # A thread of its own, because the loop cannot wait for two things at once.
    self._pool = futures.ThreadPoolExecutor(1)
    self._done = self._pool.submit(_when_done, ())
    self._lost = 0.0

  def batches(self, made: Iterable) -> Iterator[Any]:
    """Yields what is made, on the devices already; `given` follows each."""
    asked = time.monotonic()
    for batch in made:
      self._asked, self._came = asked, time.monotonic()
      yield batch
      asked = time.monotonic()

  def given(self, result: Any) -> None:
    """Takes what a started step computes, and waits for the step before."""
    before, self._done = self._done, self._pool.submit(_when_done, result)
    idle = max(self._asked, before.result())
    self._lost += max(0.0, self._came - idle)

  def lost(self) -> float:
    """Returns the seconds lost since the last call, on all processes alike.

    It is the most that one of them lost: the others waited for it. All of them
    have to call this.
    """
    seconds, self._lost = np.float32(self._lost), 0.0
    return float(multihost_utils.process_allgather(seconds).max())

  def close(self) -> None:
    self._pool.shutdown()


def _when_done(result):
  jax.block_until_ready(result)
  return time.monotonic()
