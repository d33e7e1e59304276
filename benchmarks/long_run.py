# SPDX-License-Identifier: Apache-2.0
r"""Measures whether memory, open files or step time grow during a long run.

  ./launch.sh python -m benchmarks.long_run --save [--steps 20000]

The run is train.py as a user starts it, on the bundled sample with a model of
9,000 parameters. It writes 2,000 rows of metrics, makes 40 evaluations and
saves 80 checkpoints. The process is sampled from outside twice a second, and
the medians of the four quarters of the run are compared. Step time is given
twice: by the clock, which other work on the machine disturbs, and as CPU time
over all threads.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from benchmarks import protocol
from collab.training import logs

ROOT = pathlib.Path(__file__).parents[1]
LOG = 10  # steps between two rows of metrics
SIZES = {
  'data.vocab_size': 300,
  'data.batch_size': 8,
  'model.dim': 16,
  'model.mlp_dim': 32,
  'model.encoder_layers': 1,
  'model.decoder_layers': 1,
  'model.attention.num_heads': 2,
  'every.log': LOG,
  'every.eval': 500,
  'every.checkpoint': 250,
}


class Sample(NamedTuple):
  """A sample of the process.

  Attributes:
    step: the last step that it has written metrics for.
    seconds: CPU time of all its threads.
    mib: resident memory of its own, in MiB. Memory mapped from files does not
      count, because the system may drop it and read it again.
    files: number of open files.
    threads: number of threads.
  """

  step: int
  seconds: float
  mib: float
  files: int
  threads: int


def look(pid, step):
  """Takes a Sample; raises OSError if the process is gone."""
  proc = pathlib.Path(f'/proc/{pid}')
  # The fields after the name, which is in parentheses and may have spaces.
  stat = (proc / 'stat').read_text().rpartition(')')[2].split()
  status = (proc / 'status').read_text()
  kib = int(status.split('RssAnon:')[1].split()[0])
  ticks = int(stat[11]) + int(stat[12])
  return Sample(
    step=step,
    seconds=ticks / os.sysconf('SC_CLK_TCK'),
    mib=kib / 2**10,
    files=len(os.listdir(proc / 'fd')),
    threads=int(stat[17]),
  )


def run(workdir, steps):
  """Runs train.py; returns Samples, and each row's milliseconds a step."""
  sizes = SIZES | dict(total_steps=steps)
  command = [sys.executable, ROOT / 'train.py', f'--workdir={workdir}']
  command += [f'--config={ROOT}/configs/wmt14_mhe_mul.py:sample']
  command += [f'--config.{name}={value}' for name, value in sizes.items()]
  metrics, samples = workdir / 'metrics.jsonl', []
  position = rows = 0
  with (workdir / 'log').open('w') as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    while process.poll() is None:
      time.sleep(0.5)
      if metrics.exists():
        with metrics.open('rb') as file:
          file.seek(position)
          new = file.read()
        position += len(new)
        rows += new.count(b'"train/loss"')
      try:
        samples.append(look(process.pid, LOG * (rows - 1)))  # and step 1
      except (OSError, IndexError):  # the process has just ended
        break
  if process.wait():
    sys.exit((workdir / 'log').read_text())
  clock = [
    1e3 * row['time/seconds'] / LOG
    for row in logs.read_rows(metrics)
    if 'train/loss' in row and row['step'] % LOG == 0
  ]
  return [x for x in samples if 0 < x.step < steps], clock


def quarters(samples, clock, steps):
  """Returns the medians of the four quarters: {what: [first, ..., fourth]}."""
  found = {}
  part = [min(4 * x.step // steps, 3) for x in samples]
  for name in ('mib', 'files', 'threads'):
    values = np.array([getattr(x, name) for x in samples])
    found[name] = [
      float(np.median(values[np.array(part) == i])) for i in range(4)
    ]
  found['files, most'] = [
    max(x.files for x, i in zip(samples, part, strict=True) if i == quarter)
    for quarter in range(4)
  ]
  found['ms a step'] = [float(np.median(x)) for x in np.array_split(clock, 4)]
  found['processor ms a step'] = [
    1e3 * (last.seconds - first.seconds) / (last.step - first.step)
    for first, last in (
      (samples[part.index(i)], samples[len(part) - 1 - part[::-1].index(i)])
      for i in range(4)
    )
  ]
  return found


def draw(samples, clock, path):
  """Plots memory, step time and open files against the step."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout='constrained')
  step = [x.step for x in samples]
  averaged = np.array(clock)[: len(clock) // 20 * 20].reshape(-1, 20)
  for axis, title, x, y in (
    (axes[0], 'own resident memory, MiB', step, [s.mib for s in samples]),
    (
      axes[1],
      f'ms a step (median of {20 * LOG})',
      20 * LOG * (1 + np.arange(len(averaged))),
      np.median(averaged, 1),
    ),
    (axes[2], 'open files', step, [s.files for s in samples]),
  ):
    axis.plot(x, y, color='#3b6fb6', linewidth=1)
    axis.set_title(title, fontsize=10)
    axis.set_ylim(0, 1.25 * max(y))
    axis.set_xlabel('step', fontsize=9)
    axis.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=130)
  print(f'Drawn: {os.path.relpath(path)}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--steps', type=int, default=20_000)
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    samples, clock = run(pathlib.Path(folder), args.steps)
  found = quarters(samples, clock, args.steps)
  print(
    f'{"quarter":20}' + ''.join(f'{i:10}' for i in range(1, 5)) + '   4 : 1'
  )
  for name, values in found.items():
    shown = ''.join(f'{x:10.2f}' for x in values)
    print(f'{name:20}{shown}{values[3] / values[0]:8.3f}')
  if args.save:
    protocol.save('long_run', found)
    draw(samples, clock, protocol.RESULTS / 'long_run.png')


if __name__ == '__main__':
  main()
