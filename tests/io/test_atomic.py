# SPDX-License-Identifier: Apache-2.0
"""Whoever is killed leaves nothing for long, and loses nothing of others."""

import signal
import subprocess
import sys

import pytest

from collab.io import atomic
from tests import tiny

WRITER = """
import sys, time
from collab.io import atomic
with atomic.beside(sys.argv[1]) as new:
  new.mkdir()
  (new / 'tokens').write_bytes(b'x' * 1000)
  print('writes', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
  """A process that writes tmp_path / 'cache', and does not come to an end."""
  with subprocess.Popen(
    [sys.executable, '-c', WRITER, tmp_path / 'cache'],
    stdout=subprocess.PIPE,
    text=True,
    cwd=tiny.ROOT,
  ) as process:
    assert process.stdout.readline() == 'writes\n'
    yield process
    process.kill()


def write(path, text='new'):
  with atomic.beside(path) as new:
    new.write_text(text)
    new.replace(path)


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_of_a_killed_process_nothing_stays(writer, tmp_path):
  assert len(names(tmp_path)) == 1
  writer.send_signal(signal.SIGKILL)
  writer.wait()
  (left,) = names(tmp_path)
  write(tmp_path / 'other')
  assert names(tmp_path) == ['other']
  assert left.startswith('.collab.tmp-')


def test_what_a_living_process_writes_stays(writer, tmp_path):
  (theirs,) = tmp_path.iterdir()
  write(tmp_path / 'other')
  with atomic.beside(tmp_path / 'outer') as outer:
    outer.write_text('mine')
    write(tmp_path / 'other', 'again')
    assert outer.read_text() == 'mine'
  assert names(tmp_path) == [theirs.name, 'other']
  assert (theirs / 'cache' / 'tokens').stat().st_size == 1000
  assert (tmp_path / 'other').read_text() == 'again'


def test_of_others_nothing_is_removed(tmp_path):
  """Another host's may live; and a user's file is no business of ours."""
  theirs = ['.collab.tmp-another.host-x7', '.tmp-1', 'data.tmp-12345678']
  for name in theirs:
    (tmp_path / name).mkdir()
  write(tmp_path / 'other')
  assert names(tmp_path) == sorted([*theirs, 'other'])


def test_a_failure_leaves_the_old_file(tmp_path):
  write(tmp_path / 'file', 'old')
  with pytest.raises(OSError, match='full'), atomic.beside(tmp_path / 'file'):
    raise OSError('full')
  assert names(tmp_path) == ['file']
  assert (tmp_path / 'file').read_text() == 'old'
  with pytest.raises(FileNotFoundError):
    write(tmp_path / 'gone' / 'file')
  assert names(tmp_path) == ['file']
