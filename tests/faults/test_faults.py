# SPDX-License-Identifier: Apache-2.0
"""Runs that are disturbed: nothing is lost, or one line says what is wrong.

Here are the quick ones; `python -m benchmarks.faults` tries all of them.
"""

import pytest

from tests.faults import lab as labs
from tests.faults import signals, storage

QUICK = [signals.killed_while_saving]
SLOW = [
  signals.terminated,
  signals.killed_at_row,
  signals.two_at_once,
  signals.interrupted,
  signals.interrupted_twice,
  signals.stalled,
  signals.clock_goes_back,
  storage.damaged,
  storage.full_at_cache,
  storage.full_at_checkpoint,  # a thread of Orbax may print a traceback as well
  storage.full_at_metrics,
  storage.read_only,
  storage.data_changes,
  storage.data_vanishes,
  storage.cache_changes,
]
NAMED = lambda fault: fault.__name__


@pytest.fixture(scope='module')
def lab(cache, tmp_path_factory):
  return labs.build(tmp_path_factory.mktemp('lab'), cache)


@pytest.mark.parametrize('fault', QUICK, ids=NAMED)
def test_fault(fault, lab, tmp_path):
  fault(lab, tmp_path / 'run')


@pytest.mark.slow
@pytest.mark.parametrize('fault', SLOW, ids=NAMED)
def test_slower_fault(fault, lab, tmp_path):
  fault(lab, tmp_path / 'run')


# Row 12: what SIGTERM saves is one of the last two, and not in their mean.
@pytest.mark.slow
@pytest.mark.parametrize('row', [1, 3, 8, 10, 12])
def test_terminated_elsewhere(row, lab, tmp_path):
  signals.terminated(lab, tmp_path / 'run', row)


@pytest.mark.slow
def test_killed_often(cache, tmp_path):
  lab = labs.build(tmp_path / 'lab', cache, **signals.MANY)
  signals.killed_often(lab, tmp_path / 'runs', kills=10)
