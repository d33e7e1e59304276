# SPDX-License-Identifier: Apache-2.0
"""A wait for input is lost only while the devices have nothing to do."""

import contextlib
import time

import pytest

from collab.training import feed

STEPS = 6


class Device:
  """Computes a step after the other; each takes a time."""

  def __init__(self, seconds):
    self._seconds, self._free = seconds, 0.0

  def start(self):
    """What a step computes, as jax.block_until_ready knows it."""
    self._free = max(self._free, time.monotonic()) + self._seconds
    return Result(self._free)


class Result:
  def __init__(self, done):
    self.done = done

  def block_until_ready(self):
    time.sleep(max(0.0, self.done - time.monotonic()))
    return self


def late(seconds):
  for step in range(STEPS):
    time.sleep(seconds)
    yield step


@pytest.mark.parametrize(
  'made, computed, lost',
  [
    (0.0, 0.05, 0.0),
    (0.05, 0.1, 0.05),  # of the first step alone
    (0.1, 0.08, 0.1 + (STEPS - 1) * 0.02),  # though the loop waits always
    (0.1, 0.0, STEPS * 0.1),
  ],
)
def test_lost(made, computed, lost):
  device, steps = Device(computed), []
  with contextlib.closing(feed.Feed()) as fed:
    start = time.monotonic()
    for step in fed.batches(late(made)):
      steps.append(step)
      fed.given(device.start())
    seconds = time.monotonic() - start
    # What the machine's other work adds to the sleeps may be lost as well.
    added = seconds - max(made * STEPS, made + computed * (STEPS - 1))
    assert lost - 0.1 < fed.lost() < lost + 0.1 + added
    assert fed.lost() == 0.0
  assert steps == list(range(STEPS))


def test_what_else_the_loop_does_is_not_lost():
  device = Device(0.0)
  with contextlib.closing(feed.Feed()) as fed:
    for _ in fed.batches(range(STEPS)):
      fed.given(device.start())
      time.sleep(0.05)
    assert fed.lost() < 0.05


def test_the_loop_is_one_step_ahead():
  device, results = Device(0.2), []
  with contextlib.closing(feed.Feed()) as fed:
    for _ in fed.batches(range(3)):
      results.append(device.start())
      fed.given(results[-1])
      now = time.monotonic()
      assert all(x.done <= now for x in results[:-1])
      assert now < results[-1].done


def test_an_error_of_a_step_is_raised_after_the_next():
  class Broken:
    def block_until_ready(self):
      raise RuntimeError('the device is lost')

  with contextlib.closing(feed.Feed()) as fed:
    batches = fed.batches(range(2))
    next(batches)
    fed.given(Broken())
    next(batches)
    with pytest.raises(RuntimeError, match='the device is lost'):
      fed.given(())
