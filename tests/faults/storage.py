# SPDX-License-Identifier: Apache-2.0
"""Faults of what is stored: damaged, full, read-only, changed, gone."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess

import pytest

from tests import tiny
from tests.faults import lab as labs
from tests.faults.signals import contents
from tests.runtime.test_checkpoint import array_files, flip

# What happens to the newest checkpoint; nothing of the kind is deleted. All of
# its files with arrays, for in some there is nothing any more that is read.
DAMAGES = {
  'truncated': lambda step: [
    os.truncate(path, path.stat().st_size // 2) for path in array_files(step)
  ],
  'bit flipped': lambda step: [*map(flip, array_files(step))],
  'half deleted': lambda step: [
    path.unlink() for path in sorted(array_files(step))[::2]
  ],
}


def damaged(lab, folder, names=tuple(DAMAGES)):
  """The newest checkpoint: it is told, kept, and the one before it used."""
  process = labs.start(lab, folder / 'run')
  step = 3 * lab.every
  labs.wait_for(process, lambda: step in labs.steps(folder / 'run'))
  assert labs.kill(process)
  for name in names:
    path = folder / name.replace(' ', '_')
    shutil.copytree(folder / 'run', path)
    newest = path / 'checkpoints' / str(max(labs.steps(path)))
    before = max(labs.steps(path) - {int(newest.name)})
    DAMAGES[name](newest)
    kept = {p.relative_to(newest): x for p, x in contents(newest).items()}
    out, err = labs.go_on(lab, path)
    assert f'{newest} is damaged and not used' in err
    assert f'{before} of {lab.steps} done' in out
    labs.check_equal(lab, path)
    aside = path / 'damaged' / f'{newest.name}.0'
    assert kept == {p.relative_to(aside): x for p, x in contents(aside).items()}
  return 'told in a line, kept, the one before it used'


# Disks ------------------------------------------------------------------------


@contextlib.contextmanager
def disk(folder, size):
  """A file system of a fixed size, and a function that mounts it otherwise."""
  if os.geteuid() != 0:
    pytest.skip('only root can mount a file system')
  folder.mkdir(parents=True)
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('mount does not work here')

  def remount(options):
    subprocess.run(['mount', '-o', f'remount,{options}', folder], check=True)

  try:
    yield remount
  finally:
    subprocess.run(['umount', folder], check=True)


def full_at_checkpoint(lab, folder):
  """Runs out of space at a checkpoint; with more space it goes on."""
  with disk(folder / 'disk', '400k') as remount:
    path = folder / 'disk' / 'run'
    line = labs.refused(tiny.finish(labs.start(lab, path)), 'No space left')
    labs.check_begun(lab, path)
    remount('size=40m')
    labs.go_on(lab, path)
    labs.check_equal(lab, path)
  return _short(line, path)


def full_at_cache(lab, folder):
  """While the tokenised data is written; nothing of it stays."""
  run = folder / 'run'
  with disk(folder / 'disk', '12k') as remount:
    changes = dict(data__folder=str(folder / 'disk'))
    got = tiny.finish(labs.start(lab, run, **changes))
    line = labs.refused(got, 'No space left')
    assert contents(folder / 'disk') == {}
    assert not (run / 'run.json').exists()
    remount('size=4m')
    code, _, err = tiny.finish(labs.start(lab, run, **changes))
    assert code == 0, err
    labs.check_equal(lab, run)
  return _short(line, folder)


def full_at_metrics(lab, folder):
  """In the middle of a row of metrics, which is taken back.

  The kernel refuses longer files, as it does when a disk is full.
  """
  process = labs.start(lab, folder)
  labs.wait_for(process, lambda: lab.every in labs.steps(folder))
  process.send_signal(signal.SIGSTOP)
  limit = (folder / 'metrics.jsonl').stat().st_size + 100
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
  process.send_signal(signal.SIGCONT)
  line = labs.refused(tiny.finish(process), 'metrics.jsonl')
  text = (folder / 'metrics.jsonl').read_text()
  assert text.endswith('}\n')  # no part of a row
  labs.check_begun(lab, folder)
  labs.go_on(lab, folder)
  labs.check_equal(lab, folder)
  return _short(line, folder)


def read_only(lab, folder):
  """No run begins, and what is there stays; written to again, it goes on."""
  with disk(folder / 'disk', '40m') as remount:
    path = folder / 'disk' / 'run'
    process = labs.start(lab, path)
    labs.wait_for_row(process, path, 7)
    assert labs.kill(process)
    remount('ro')
    before = contents(path)
    got = tiny.train([f'--workdir={path}'], lab.cache)
    line = labs.refused(got, 'Read-only file system', str(path))
    assert contents(path) == before
    remount('rw')
    labs.go_on(lab, path)
    labs.check_equal(lab, path)
  return _short(line, path)


def _short(line, folder):
  return f'"{line.replace(str(folder), "DIR")}"'


# Data -------------------------------------------------------------------------


def data_vanishes(lab, folder):
  """While it trains, which it does not notice; a restart says what is gone."""
  corpus = shutil.copytree(lab.corpus, folder / 'corpus')
  run, file = folder / 'run', corpus / 'train.de'
  process = labs.start(lab, run, data__path=str(corpus))
  labs.wait_for_row(process, run, 2)
  file.rename(folder / 'away')
  labs.wait_for_row(process, run, 9)
  assert labs.kill(process)
  got = tiny.train([f'--workdir={run}'], lab.cache)
  line = labs.refused(got, 'has train.en, but no train.de')
  labs.check_begun(lab, run)
  (folder / 'away').rename(file)
  labs.go_on(lab, run)
  labs.check_equal(lab, run)
  return _short(line, folder)


def data_changes(lab, folder):
  """A word of one line: the run goes on with what it began with, or not."""
  corpus = shutil.copytree(lab.corpus, folder / 'corpus')
  run, file = folder / 'run', corpus / 'train.de'
  process = labs.start(lab, run, data__path=str(corpus))
  labs.wait_for_row(process, run, 2)
  good = file.read_text()
  file.write_text(good.replace('drei', 'vier', 1))
  labs.wait_for_row(process, run, 9)
  assert labs.kill(process)
  got = tiny.train([f'--workdir={run}'], lab.cache)
  line = labs.refused(got, f'{run}: the data is not what the run began with')
  labs.check_begun(lab, run)
  file.write_text(good)
  labs.go_on(lab, run)
  labs.check_equal(lab, run)
  return _short(line, folder)


def cache_changes(lab, folder):
  """The tokenised data under a run that has it mapped: it is made anew."""
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, 5)
  for path in (folder / 'data').rglob('*.tokens'):
    os.truncate(path, 0)
  code, _, err = tiny.finish(process)
  ended = 'went on to its end' if code == 0 else f'ended with {code}'
  if code:
    assert code in (1, -signal.SIGBUS), err
    labs.check_begun(lab, folder)
    out, _ = labs.go_on(lab, folder)
    assert 'is damaged' in out
  labs.check_equal(lab, folder)
  return f'{ended}; made anew, went on from the last checkpoint'
