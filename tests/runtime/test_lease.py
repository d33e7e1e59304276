# SPDX-License-Identifier: Apache-2.0
"""A workdir in a bucket has one run, and another one when that is dead."""

import os
import subprocess
import sys
import time

import pytest

from collab.runtime import lease


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lease, 'RENEWED', 0.2)
  monkeypatch.setattr(lease, 'EXPIRES', 1.0)


def test_one_run_while_it_renews(bucket):
  """The second is refused by name; once the first has ended it is not."""
  path = bucket / 'lock'
  release = lease.take(path)
  words = f'{bucket} is in use by process {os.getpid()} on .*; expected one run'
  with pytest.raises(ValueError, match=words):
    lease.take(path)
  time.sleep(2 * lease.EXPIRES)  # it goes on renewing
  with pytest.raises(ValueError, match=words):
    lease.take(path)
  release()
  lease.take(path)()


def test_a_dead_run_of_another_machine_expires(bucket):
  (bucket / 'lock').write_text('process 7 on another\nits boot\nits run\n')
  begun = time.monotonic()
  release = lease.take(bucket / 'lock')
  assert time.monotonic() - begun > lease.EXPIRES
  release()


def test_a_dead_run_of_this_machine_is_known(bucket, monkeypatch):
  monkeypatch.setattr(lease, 'EXPIRES', 1000)
  process = subprocess.Popen([sys.executable, '-c', ''])
  process.wait()
  text = f'process {process.pid} on here\n{lease._machine()}\nits run\n'
  (bucket / 'lock').write_text(text)
  lease.take(bucket / 'lock')()
