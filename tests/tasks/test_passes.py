# SPDX-License-Identifier: Apache-2.0
"""A pass over examples has each of them once, in batches of one size."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from collab import tasks


@given(
  st.integers(0, 23).flatmap(lambda n: st.permutations(range(n))),
  st.integers(1, 29),
)
def test_every_example_once(order, size):
  made = tasks.Pass.over(len, order, size, lambda rows: dict(twice=2 * rows))
  assert made.rows is len
  batches = [made.batch(i) for i in range(made.batches)]
  assert all(len(x) == size for batch in batches for x in batch.values())
  places = np.concatenate([[-1], *(batch['place'] for batch in batches)])
  assert places[places >= 0].tolist() == list(order)
  for batch in batches:
    real = batch['place'] >= 0
    assert real[0]
    np.testing.assert_array_equal(
      batch['twice'][real], 2 * batch['place'][real]
    )
