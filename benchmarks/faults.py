# SPDX-License-Identifier: Apache-2.0
r"""Injects faults into runs of train.py and records how the runs survive them.

  ./launch.sh python -m benchmarks.faults --save [--kills 50]

Each case disturbs a run, resumes it, and compares it with an undisturbed run.
Metrics (except those that depend on the clock), scores and checkpoints have to
be equal to the bit. Where a fault makes that impossible, the run has to end
with a one-line error and leave the files as they were. The faults are those of
tests/faults.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time
import traceback

import pytest

from benchmarks import protocol
from tests.faults import lab as labs
from tests.faults import signals, storage

FAULTS = {
  'SIGKILL at a step': signals.killed_at_row,
  'SIGKILL in a checkpoint write': signals.killed_while_saving,
  'SIGTERM': signals.terminated,
  'SIGTERM before the last step': functools.partial(signals.terminated, row=12),
  'Ctrl-C': signals.interrupted,
  'Ctrl-C at once and twice': signals.interrupted_twice,
  'held by SIGSTOP': signals.stalled,
  'clock going backwards': signals.clock_goes_back,
  'two runs on one workdir': signals.two_at_once,
  **{
    f'newest checkpoint {name}': functools.partial(
      storage.damaged, names=[name]
    )
    for name in storage.DAMAGES
  },
  'disk full at a checkpoint': storage.full_at_checkpoint,
  'disk full at the token cache': storage.full_at_cache,
  'disk full within a row of metrics': storage.full_at_metrics,
  'read-only workdir': storage.read_only,
  'data file vanishes': storage.data_vanishes,
  'data file changes': storage.data_changes,
  'token cache truncated under the run': storage.cache_changes,
}


def tried(name, fault, lab, folder):
  """Tries one fault; returns a row of the table."""
  began = time.monotonic()
  try:
    outcome, told = 'survived', fault(lab, folder)
  except pytest.skip.Exception as e:
    outcome, told = 'skipped', str(e)
  except AssertionError as e:
    outcome, told = 'LOST', traceback.extract_tb(e.__traceback__)[-1].line
  seconds = round(time.monotonic() - began)
  print(f'| {name} | {outcome} | {told} | {seconds} s |', flush=True)
  return dict(outcome=outcome, told=told, seconds=seconds)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0, help='of their moments')
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print('| fault | outcome | how | took |\n|---|---|---|---|', flush=True)
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    often = functools.partial(
      signals.killed_often, kills=args.kills, seed=args.seed
    )
    lab = labs.build(folder / 'longer', folder / 'compiled', **signals.MANY)
    name = 'SIGKILL at random moments'
    found[name] = tried(name, often, lab, folder / 'often')
    lab = labs.build(folder / 'lab', folder / 'compiled')
    for i, (name, fault) in enumerate(FAULTS.items()):
      found[name] = tried(name, fault, lab, folder / f'{i}')
  if args.save:
    protocol.save('faults', found)
  if lost := [name for name, row in found.items() if row['outcome'] == 'LOST']:
    sys.exit(f'Not survived: {", ".join(lost)}.')


if __name__ == '__main__':
  main()
