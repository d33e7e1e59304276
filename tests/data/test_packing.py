# SPDX-License-Identifier: Apache-2.0
"""Every pair once, no row too full; only lengths and seed decide."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.data import epochs, packing

ROW = 13


def sums(lengths, plan):
  """Tokens of each row: int64 [rows]."""
  return np.add.reduceat(lengths[plan.pairs], plan.starts[:-1])


@settings(max_examples=80, deadline=None)
@given(
  pairs=st.lists(
    st.tuples(st.integers(1, ROW), st.integers(1, ROW)) | st.just((0, 0)),
    max_size=60,
  ),
  seed=st.integers(0, 2**32),
  window=st.sampled_from([2, 7, 1024]),
)
def test_every_pair_once_and_every_row_fits(pairs, seed, window):
  lengths = np.array(pairs, np.int64).reshape(-1, 2).T
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(packing, 'WINDOW', window)
    patch.setattr(packing, 'TOGETHER', 3)
    plan = packing.plan(lengths, ROW, seed)
    again = packing.plan(lengths, ROW, seed)
  kept = np.flatnonzero(lengths[0])
  assert sorted(plan.pairs) == list(kept)
  assert plan.starts[0] == 0
  assert plan.starts[-1] == len(kept)
  assert (np.diff(plan.starts) > 0).all()  # no empty rows
  for side in lengths:
    assert not plan.rows or sums(side, plan).max() <= ROW
  np.testing.assert_array_equal(plan.pairs, again.pairs)
  np.testing.assert_array_equal(plan.starts, again.starts)


def test_rows_are_well_filled():
  rng = np.random.default_rng(0)
  source = rng.integers(3, 40, 20_011)
  target = np.clip(source + rng.integers(-3, 4, 20_011), 1, 64)
  plan = packing.plan(np.stack([source, target]), 64, 1)
  needed = max(source.sum(), target.sum()) / 64
  assert needed <= plan.rows < 1.08 * needed


def test_seed_and_epoch_change_the_order():
  lengths = np.full((2, 101), 3)
  a, b = (packing.plan(lengths, ROW, seed).pairs for seed in (0, 1))
  assert list(a) != list(b)
  orders = [epochs.orders(31, 5)(epoch) for epoch in (0, 1, 0)]
  assert list(orders[0]) == list(orders[2]) != list(orders[1])
  assert sorted(orders[0]) == sorted(orders[1]) == list(range(31))
  # Neighbours in the file are not neighbours in a row.
  assert (np.abs(np.diff(a)) > 1).mean() > 0.9


def test_long_rows():
  lengths = np.array([40_000, 30_000, 9_000, 70_000])
  plan = packing.plan(np.stack([lengths, lengths]), 70_000, 0)
  assert plan.rows == 3
  assert sums(lengths, plan).max() == 70_000


@pytest.mark.parametrize('length', [-1, ROW + 1])
def test_impossible_length(length):
  with pytest.raises(AssertionError, match=str(length)):
    packing.plan(np.array([[1, length], [1, 1]]), ROW, 0)
