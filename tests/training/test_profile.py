# SPDX-License-Identifier: Apache-2.0
"""Which steps a trace has, wherever a run begins and ends."""

import jax
import pytest

from collab.training import profile


@pytest.fixture
def calls(monkeypatch):
  """'start' and 'stop' of the profiler, between the steps of `run`."""
  found = []
  start = lambda folder: found.append(f'start {folder.name}')
  monkeypatch.setattr(jax.profiler, 'start_trace', start)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: found.append('stop'))
  return found


def run(calls, folder, steps, first, last):
  trace = profile.Trace(folder, steps, first)
  for step in range(first + 1, last + 1):
    calls.append(step)
    trace.after(step)
  trace.close()


@pytest.mark.parametrize(
  'first, last, traced',
  [
    (0, 9, [3, 4]),
    (2, 9, [3, 4]),  # goes on where the trace begins
    (3, 9, [4]),  # within it
    (0, 3, [3]),  # stopped within it
    (0, 4, [3, 4]),  # the run ends with it
  ],
)
def test_steps(calls, tmp_path, capsys, first, last, traced):
  run(calls, tmp_path, range(3, 5), first, last)
  begin, end = calls.index('start profile'), calls.index('stop')
  assert calls[begin + 1 : end] == traced
  assert calls.count('start profile') == calls.count('stop') == 1
  told = capsys.readouterr().out
  assert f'from step {traced[0]} on is in {tmp_path}/profile' in told
  assert len(told.splitlines()) == 1


def test_nothing_left(calls, tmp_path, capsys):
  run(calls, tmp_path, range(3, 5), 4, 6)
  assert calls == [5, 6]
  told = 'The run is at step 4: nothing is left to trace.\n'
  assert capsys.readouterr().out == told


def test_no_trace(calls, tmp_path, capsys):
  run(calls, tmp_path, range(0), 0, 2)
  assert calls == [1, 2]
  assert list(tmp_path.iterdir()) == []
  assert capsys.readouterr().out == ''


def test_process_0_alone(calls, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run(calls, tmp_path, range(1, 3), 0, 3)
  assert calls == [1, 2, 3]
  assert list(tmp_path.iterdir()) == []


def test_no_place(tmp_path):
  (tmp_path / 'profile').write_text('')
  with pytest.raises(OSError, match='profile'):
    profile.Trace(tmp_path, range(1, 3), 0)
