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


def task(checksum='a', **batches):
  """A task whose batches are all 1 but for those given."""
  return types.SimpleNamespace(
    describe=lambda: dict(rows=7, checksum=checksum, kinds=('a', 'b')),
    batch=lambda step: dict(x=np.full(3, batches.get(f'step_{step}', 1))),
  )


def test_the_same_data(tmp_path):
  for _ in range(2):
    workdir.check_data(tmp_path, task(), 9)
  assert json.loads((tmp_path / 'data.json').read_text())['checksum'] == 'a'
  # On two processes a batch is another one.
  path, text = tmp_path / 'data.json', (tmp_path / 'data.json').read_text()
  path.write_text(text.replace('1 processes', '2 processes'))
  workdir.check_data(tmp_path, task(step_4=2), 9)


@pytest.mark.parametrize(
  'other, words',
  [
    (dict(checksum='b'), r'with: checksum was a, is b\.'),
    (dict(step_4=2), 'with: checksum of batches, 1 processes was '),
    (dict(checksum='b', step_8=2), 'with: .*a, is b; checksum of batches'),
  ],
)
def test_other_data(other, words, tmp_path):
  workdir.check_data(tmp_path, task(), 9)
  kept = (tmp_path / 'data.json').read_bytes()
  with pytest.raises(ValueError, match=f'not what the run began {words}'):
    workdir.check_data(tmp_path, task(**other), 9)
  assert (tmp_path / 'data.json').read_bytes() == kept
