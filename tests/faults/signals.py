# SPDX-License-Identifier: Apache-2.0
"""Faults of a process: killed, told to stop, held, and not alone."""

import os
import random
import signal
import subprocess
import sys
import time

from tests import tiny
from tests.faults import lab as labs

# train.py, with a clock that goes back by an hour whenever it is read.
BACKWARDS = """
import itertools, runpy, sys, time
now, hours = time.time_ns(), itertools.count()
time.time_ns = lambda: now - next(hours) * 3600 * 10**9
time.time = lambda: time.time_ns() / 1e9
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""

# Changes of the small config for a run that is killed again and again.
MANY = dict(total_steps=150, every__eval=50, every__checkpoint=5)


def killed_at_row(lab, folder, row=9):
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, row)
  assert labs.kill(process)
  labs.check_begun(lab, folder)
  labs.go_on(lab, folder)
  labs.check_equal(lab, folder)
  return 'went on from the last checkpoint'


def killed_while_saving(lab, folder, step=6):
  """In the middle of the second checkpoint: the first one is taken."""
  process = labs.start(lab, folder)
  labs.wait_for(process, lambda: labs.parts(folder, step))
  assert labs.kill(process)
  # Whether the process was quick enough is seen here, and not left to chance:
  # what remains is either the part or, just renamed, the whole.
  torn = bool(labs.parts(folder, step))
  assert torn or step in labs.steps(folder)
  out, _ = labs.go_on(lab, folder)
  done = step - lab.every * torn
  assert f'{done} of {lab.steps} done' in out
  labs.check_equal(lab, folder)
  return f'checkpoint {step} was {"torn" if torn else "whole"}, {done} used'


def killed_often(lab, folder, kills=50, seed=0):
  """Kills runs at random moments, each again and again until it is done.

  Three in five while a checkpoint is being written, one at some step, one at
  any time from the start on, imports and compilation included.
  """
  rng = random.Random(seed)
  torn = done = runs = 0
  while done < kills:
    path = folder / str(runs)
    before = _identities(path)
    process = labs.start(lab, path)
    _wait(rng, process, path)
    killed = labs.kill(process)
    assert killed or process.returncode == 0
    done += killed
    if (path / 'result.json').exists():
      labs.check_equal(lab, path)
      runs += 1
      continue
    torn += bool(_identities(path) - before)  # earlier ones may still lie there
    rows = tiny.rows(path)
    labs.check_begun(lab, path)
    saved = max(labs.steps(path), default=0)
    at = rows[-1]['step'] if rows else 0
    assert at - 2 * lab.every <= saved <= at
  if (path / 'run.json').exists():  # else it was killed before it began
    labs.go_on(lab, path)
    labs.check_equal(lab, path)
  return f'{done} kills, {torn} left a torn checkpoint; {runs + 1} runs equal'


def _identities(folder):
  return {(part.name, part.stat().st_ino) for part in labs.parts(folder)}


def _wait(rng, process, folder):
  """Until a random moment, or the end of the process."""
  kind = rng.choice(['save'] * 3 + ['row', 'time'])
  seen = {path.name for path in labs.parts(folder)}
  row = labs.rows_written(folder) + rng.randint(1, 40)
  saves, wait = rng.randint(1, 3), rng.random()

  def new():
    seen.update(path.name for path in labs.parts(folder))
    return len(seen)

  saves += len(seen)
  reached = dict(
    save=lambda: new() >= saves,
    row=lambda: labs.rows_written(folder) >= row,
    time=lambda: True,
  )[kind]
  while process.poll() is None and not reached():
    time.sleep(0.0005)
  time.sleep(wait * dict(save=0.05, row=0.02, time=8)[kind])


def terminated(lab, folder, row=5):
  """SIGTERM saves what is there and exits with 0; nothing is done twice."""
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, row)
  process.send_signal(signal.SIGTERM)
  code, out, err = tiny.finish(process)
  assert code == 0, err
  return f'{_saved(lab, folder, out)}, went on from there'


def interrupted(lab, folder, row=7):
  """Ctrl-C does the same, and says that a second would stop at once."""
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, row)
  process.send_signal(signal.SIGINT)
  code, out, err = tiny.finish(process)
  assert code == 130, err
  assert 'A second Ctrl-C\nstops it at once' in err
  assert err.splitlines()[-1] == 'train.py: stopped by Ctrl-C.'
  assert 'Traceback' not in err
  return f'{_saved(lab, folder, out)}, exit 130, went on from there'


def _saved(lab, folder, out):
  (line,) = [x for x in out.splitlines() if x.startswith('Stopped and saved')]
  step = int(line.split('at step ')[1].split(';')[0])
  assert max(labs.steps(folder)) == step < lab.steps
  assert tiny.rows(folder)[-1]['step'] == step
  assert f'--workdir={folder} goes on' in line
  labs.check_begun(lab, folder)
  out, _ = labs.go_on(lab, folder)
  assert f'{step} of {lab.steps} done' in out
  labs.check_equal(lab, folder)
  return f'saved step {step}'


def interrupted_twice(lab, folder, row=4):
  """At once, without a traceback; and early, before there is a step."""
  process = labs.start(lab, folder)
  labs.wait_for(process, (folder / 'data').exists)
  process.send_signal(signal.SIGINT)
  code, _, err = tiny.finish(process)
  assert code == 130
  assert err.splitlines()[-1] == 'train.py: stopped by Ctrl-C.'
  assert not (folder / 'run.json').exists()  # another config may come here
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, row)
  while process.poll() is None:
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
  _, _, err = tiny.finish(process)
  assert process.returncode == -signal.SIGINT
  assert 'Traceback' not in err
  labs.check_begun(lab, folder)
  labs.go_on(lab, folder)
  labs.check_equal(lab, folder)
  return 'ended at once; went on from the last checkpoint'


def stalled(lab, folder, seconds=5):
  """A host that holds the process for a while, in a step and in a save."""
  process = labs.start(lab, folder)
  for reached in (
    lambda: labs.rows_written(folder) >= 2,
    lambda: labs.parts(folder) or labs.rows_written(folder) >= 10,
  ):
    labs.wait_for(process, reached)
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
  code, _, err = tiny.finish(process)
  assert code == 0, err
  labs.check_equal(lab, folder)
  return f'held twice for {seconds} s, the same run'


def clock_goes_back(lab, folder):
  """By an hour at each look, in both parts of a run that is killed."""

  def start():
    command = tiny.command(lab.corpus, folder, **lab.changes)
    return subprocess.Popen(
      [sys.executable, *tiny.WARNINGS, '-c', BACKWARDS, 'train.py', *command],
      cwd=tiny.ROOT,
      env=os.environ | tiny.environ(lab.cache),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  process = start()
  labs.wait_for_row(process, folder, 9)
  assert labs.kill(process)
  code, _, err = tiny.finish(start())
  assert code == 0, err
  labs.check_equal(lab, folder)
  return 'killed and gone on, the same run'


def two_at_once(lab, folder):
  """The second is refused and has changed nothing."""
  process = labs.start(lab, folder)
  labs.wait_for_row(process, folder, 1)
  process.send_signal(signal.SIGSTOP)
  before = contents(folder)
  for arguments in ([], ['--eval_only']):
    got = tiny.train([f'--workdir={folder}', *arguments], lab.cache)
    line = labs.refused(got, f'{folder} is in use by process {process.pid} on')
  assert contents(folder) == before
  process.send_signal(signal.SIGCONT)
  code, _, err = tiny.finish(process)
  assert code == 0, err
  labs.check_equal(lab, folder)
  return f'"{line.replace(str(folder), "DIR").split(" on ")[0]}"'


def contents(folder):
  """{path: bytes} of all files."""
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
