# SPDX-License-Identifier: Apache-2.0
"""Processes that are no one run say so at once, and SIGTERM ends them."""

import signal
import time

import pytest

from tests.runtime.test_processes import finish, script

# The start of train.py. Process 1 has another folder or config, or sleeps.
START = """
import os, sys, time
import jax
from collab.runtime import processes as hosts
from collab.runtime import workdir as workdirs
from tests import tiny

hosts.join()
how, folder, me = sys.argv[1], sys.argv[2], jax.process_index()
try:
  if me and how == 'asleep':
    time.sleep(1000)
  seed = me if how == 'config' else 0
  folder += str(me) if how == 'folder' else ''
  print('joined', flush=True)
  with workdirs.owned(tiny.config('corpus', seed=seed), folder, False):
    print('began', flush=True)
except Exception as e:  # as train.py does
  hosts.leave(e)
  sys.exit(str(e))
"""


@pytest.mark.parametrize(
  'how', [pytest.param('folder', marks=pytest.mark.slow), 'config']
)
def test_two_that_differ_end_with_a_line(how, tmp_path):
  """All processes have it; no process begins, and no run stays behind."""
  begun, folder = time.monotonic(), tmp_path / 'run'
  ends = finish(script(START, 2, [how, str(folder)]))
  assert time.monotonic() - begun < 60
  words = dict(
    config='differs from process 0, on .*: config.seed is .1., there .0.',
    folder=f'does not see in .*:{folder}1 what process 0 has written to '
    f'.*:{folder}0; expected one --workdir',
  )[how]
  for code, out, err in ends:
    assert code == 1
    assert 'began' not in out
    with pytest.raises(ValueError, match=f'^process 1 of 2,? .*{words}'):
      raise ValueError(err.splitlines()[-1])
  assert not list(tmp_path.rglob('run.json'))
  assert not (tmp_path / 'run1').exists()


def test_sigterm_ends_a_start_that_hangs(tmp_path):
  """The other process never comes; JAX's runtime would catch the signal."""
  processes = script(START, 2, ['asleep', str(tmp_path)])
  try:
    assert processes[0].stdout.readline() == 'joined\n'
    time.sleep(0.2)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait(10) == -signal.SIGTERM
  finally:
    for process in processes:
      process.kill()
      process.communicate()
