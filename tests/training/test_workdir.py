# SPDX-License-Identifier: Apache-2.0
"""Who uses a workdir, and which data its run began with."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from collab.training import workdir
from tests import tiny


def test_locked_while_a_process_lives(tmp_path):
  code = 'import sys; from collab.training import workdir; '
  code += 'workdir.lock(sys.argv[1]); print("got", flush=True); input()'
  with subprocess.Popen(
    [sys.executable, '-c', code, tmp_path],
    cwd=tiny.ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'got\n'
    words = f'{tmp_path} is in use by process {process.pid} on .*; expected one'
    with pytest.raises(ValueError, match=words):
      workdir.lock(tmp_path)
    process.kill()
    process.wait()
    workdir.lock(tmp_path)


def task(rows=7, **batches):
  """A task whose batches are all 1 but for those given."""
  return types.SimpleNamespace(
    describe=lambda: dict(rows=rows, share=0.5, kinds=('a', 'b')),
    batch=lambda step: dict(x=np.full(3, batches.get(f'step_{step}', 1))),
  )


def test_the_same_data(tmp_path):
  for _ in range(2):
    workdir.check_data(tmp_path, task(), 9)
  assert json.loads((tmp_path / 'data.json').read_text())['rows'] == 7


@pytest.mark.parametrize(
  'other, words',
  [
    (dict(rows=8), 'rows was 7, is 8'),
    (dict(step_4=2), 'checksum, 1 processes was '),
    (dict(rows=5, step_8=2), 'processes was .*; rows was 7, is 5'),
  ],
)
def test_other_data(other, words, tmp_path):
  workdir.check_data(tmp_path, task(), 9)
  kept = (tmp_path / 'data.json').read_bytes()
  with pytest.raises(ValueError, match=f'not what the run began .*{words}'):
    workdir.check_data(tmp_path, task(**other), 9)
  assert (tmp_path / 'data.json').read_bytes() == kept
