# SPDX-License-Identifier: Apache-2.0
"""What faults are tried on: small runs of train.py, and one undisturbed.

A fault is a function of a Lab and a new folder. It disturbs a run, goes on with
it, asserts that nothing is lost, and returns how that went, in a few words.
"""

import json
import os
import pathlib
import signal
import time
from typing import NamedTuple

from tests import tiny


class Lab(NamedTuple):
  """Where runs are started.

  Attributes:
    corpus: folder of the data.
    cache: folder of compiled programs.
    changes: of the small config, for all runs.
    whole: workdir of a run that nothing disturbed.
    out, err: what it printed.
    steps: of a run.
    every: steps of a checkpoint.
  """

  corpus: pathlib.Path
  cache: pathlib.Path
  changes: dict
  whole: pathlib.Path
  out: str
  err: str
  steps: int
  every: int


def build(folder, cache, **changes):
  """A Lab in a folder; changes as those of tiny.command."""
  corpus, whole = tiny.write_corpus(folder / 'corpus'), folder / 'whole'
  code, out, err = tiny.train(tiny.command(corpus, whole, **changes), cache)
  assert code == 0, err
  config = tiny.config(corpus, **changes)
  steps, every = config.total_steps, config.every.checkpoint
  return Lab(corpus, cache, changes, whole, out, err, steps, every)


# Runs -------------------------------------------------------------------------


def start(lab, folder, **changes):
  """A run in a new workdir, or one that goes on, as a process."""
  command = tiny.command(lab.corpus, folder, **lab.changes | changes)
  return tiny.start(command, lab.cache)


def wait_for(process, happened):
  """Until something has happened while the process lives."""
  deadline = time.monotonic() + 600
  while not happened():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.0005)


def wait_for_row(process, folder, row):
  wait_for(process, lambda: rows_written(folder) >= row)


def kill(process):
  """SIGKILL; returns whether it was in time."""
  process.kill()
  process.communicate()
  return process.returncode == -signal.SIGKILL


def go_on(lab, folder):
  """Starts the run again by its workdir alone, to its end: what it prints."""
  code, out, err = tiny.train([f'--workdir={folder}'], lab.cache)
  assert code == 0, err
  return out, err


def refused(result, *words):
  """The one line that a run failed with, after progress and warnings."""
  code, _, err = result
  lines = err.splitlines()
  assert code == 1, err
  assert 'Traceback' not in err, err
  assert lines[-1].startswith('train.py: '), err
  assert sum(line.startswith('train.py: ') for line in lines) == 1
  for word in words:
    assert word in lines[-1]
  return lines[-1]


# What they leave --------------------------------------------------------------


def rows_written(folder):
  path = folder / 'metrics.jsonl'
  return path.read_bytes().count(b'\n') if path.exists() else 0


def steps(folder):
  """The steps of the checkpoints that are whole."""
  path = folder / 'checkpoints'
  names = os.listdir(path) if path.exists() else []
  return {int(name) for name in names if name.isdigit()}


def parts(folder, step='*'):
  """Checkpoints that are not whole."""
  return list((folder / 'checkpoints').glob(f'{step}.orbax-checkpoint-tmp*'))


def result(folder):
  return json.loads((folder / 'result.json').read_text())


def check_equal(lab, folder):
  """The run is the undisturbed one: its rows, result and checkpoints."""
  assert tiny.rows(folder) == tiny.rows(lab.whole)
  assert result(folder)['metrics'] == result(lab.whole)['metrics']
  assert steps(folder) == steps(lab.whole)


def check_begun(lab, folder):
  """The rows that there are so far are those of the undisturbed run."""
  rows = tiny.rows(folder)
  assert rows == tiny.rows(lab.whole)[: len(rows)]
  assert not (folder / 'result.json').exists()
  return len(rows)
