# SPDX-License-Identifier: Apache-2.0
"""Batches by index: every example once an epoch, whoever asks and when."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.data.epochs import Epochs, part


@given(st.integers(1, 47), st.integers(1, 60), st.integers(0, 3))
def test_epochs_follow_each_other(n, batch_size, seed):
  """The sequence of all batches is one permutation of n after another."""
  epochs = Epochs(n, batch_size, seed)
  steps = -(-3 * n // batch_size)
  flat = np.concatenate([epochs(step) for step in range(steps)])[: 3 * n]
  for epoch in flat.reshape(3, n):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
  assert epochs.steps_per_epoch == n / batch_size


def test_order_changes_with_epoch_and_seed():
  n, orders = 101, []
  for seed in (0, 1):
    epochs = Epochs(n, n, seed)
    orders += [tuple(epochs(0)), tuple(epochs(1))]
  assert len(set(orders)) == 4
  again = Epochs(n, n, 1)
  assert tuple(again(1)) == orders[3]  # in any order of asking
  assert tuple(again(0)) == orders[2]


def test_hosts_share_a_batch():
  whole, parts = (
    Epochs(53, 12, 7),
    [Epochs(53, 12, 7, (i, 3)) for i in range(3)],
  )
  for step in (0, 4, 11):
    got = np.concatenate([part(step) for part in parts])
    np.testing.assert_array_equal(got, whole(step))


@given(st.integers(0, 47), st.integers(1, 60))
def test_parts(n, size):
  found = [part(i, n, size) for i in range(-(-n // size))]
  assert all(len(rows) == len(place) == size for rows, place in found)
  assert [x for _, place in found for x in place[place >= 0]] == list(range(n))
  for rows, place in found:
    np.testing.assert_array_equal(rows, np.maximum(place, 0))


@pytest.mark.parametrize(
  'arguments, words',
  [
    ((0, 4), 'no examples'),
    ((5, 0), 'data.batch_size=0'),
    ((5, 4, 0, (0, 3)), 'data.batch_size=4; expected a multiple of the 3'),
  ],
)
def test_errors(arguments, words):
  with pytest.raises(ValueError, match=words):
    Epochs(*arguments)
