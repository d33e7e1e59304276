# SPDX-License-Identifier: Apache-2.0
r"""Makes the runs of a study that are not finished, as many at a time as fit.

  ./launch.sh python -m experiments.sweep STUDY --data=DIR
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --print
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --slurm | sbatch

STUDY is a name in experiments/studies, or a path. A run is finished if
experiments/results has its row (by config and seed), or its workdir, or another
one in --runs of the same config, has its result; then its row and its examples
are taken from there. All others begin, or go on: ending the sweep, with Ctrl-C,
SIGTERM or kill -9, loses nothing; the same command goes on. RUNS/STUDY/RUN.log
has what a run says. On a CPU each job has its own cores; on a machine with one
accelerator say --jobs=1.
"""

import argparse
from concurrent import futures
import contextlib
import fcntl
import os
import pathlib
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import tqdm

from experiments import results, study

MEMORY = 4 << 30  # of a job, generously
SLURM = r"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array={parts}
#SBATCH --cpus-per-task=1
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:TERM@120
exec ./launch.sh python -m experiments.sweep {words} \
  --jobs=1 --part="$SLURM_ARRAY_TASK_ID"
"""


class Sweep:
  """What the threads of a sweep share.

  Args:
    name: of the study.
    folder: of all results.
    planned: {name of a run: the run as its row shows it}.
  """

  def __init__(self, name, folder, planned):
    self.name, self.folder, self.planned = name, folder, planned
    self.stopping = threading.Event()
    self.children, self.failed = {}, {}

  def todo(self, run):
    """The commands that a run needs still, [] if all is recorded."""
    row = results.find(run, self.name, self.folder)
    if row and row.get('arm') and row['examples']:
      return []
    workdir = pathlib.Path(run.workdir)
    if study.finished(run):
      have = (workdir / 'examples.json').exists()
      again = ['train.py', f'--workdir={run.workdir}', '--eval_only']
      return [] if have else [again]
    if row:
      return []
    commands = study.commands(run)
    return commands[1:] if run.source and workdir.exists() else commands

  def make(self, run):
    """Makes a run, once no one else does; notes why it failed."""
    try:
      log = pathlib.Path(f'{run.workdir}.log')
      log.parent.mkdir(parents=True, exist_ok=True)
      # The log is the lock: a child inherits it, and has it while it lives,
      # though the sweep may not.
      with log.open('ab') as file:
        while not _locked(file):
          if self.stopping.wait(1):
            return
        self._make(run, file, log)
    except (ValueError, OSError) as e:
      self.failed[run.name] = ' '.join(str(e).split())

  def _make(self, run, file, log):
    for command in self.todo(run):
      if self.stopping.is_set():
        return
      child = subprocess.Popen(
        [*_with_parent(), sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        start_new_session=True,  # Ctrl-C is for the sweep alone
      )
      self.children[run.name] = child, log
      if self.stopping.is_set():  # meanwhile
        child.terminate()
      code = child.wait()
      del self.children[run.name]
      if code:
        if not self.stopping.is_set():
          self.failed[run.name] = _last_line(log) or f'exit code {code}'
        return
    self.record(run)

  def record(self, run):
    """Notes a run's result, unless it was stopped before it had one."""
    row = results.find(run, self.name, self.folder)
    if row and row.get('arm') and row['examples']:
      return
    result = study.finished(run) or row
    if result:
      planned = self.planned[run.name]
      results.record(run, planned, result, self.name, self.folder)
    elif not self.stopping.is_set():
      self.failed[run.name] = _last_line(pathlib.Path(f'{run.workdir}.log'))

  def stop(self):
    """Children save and end; runs that did not begin do not."""
    self.stopping.set()
    for child, _ in list(self.children.values()):
      child.terminate()

  def status(self):
    """What the runs that are being made say of their steps."""
    shown = []
    for name, (_, log) in sorted(self.children.items()):
      words = _last_line(log).split(',')[0]
      shown.append(f'{name} {words}' if words.startswith('step') else name)
    return ', '.join(shown)


def sweep(shared, runs, jobs):
  """Makes runs, sources first, and shows how far they are."""
  slots = queue.SimpleQueue()
  cores = sorted(_cores())
  for i in range(jobs):
    slots.put(cores[i::jobs])
  waiting, active = list(runs), {}
  bar = tqdm.tqdm(total=len(runs), unit='run', dynamic_ncols=True, disable=None)
  pool = futures.ThreadPoolExecutor(jobs, initializer=lambda: _pin(slots.get()))
  with bar, pool:
    try:
      while waiting or active:
        undone = {run.name for run in [*waiting, *active.values()]}
        for run in list(waiting):
          source = run.source.name if run.source else ''
          if source in shared.failed:
            shared.failed[run.name] = f'needs {source}, which failed'
          elif source in undone:
            continue
          else:
            active[pool.submit(shared.make, run)] = run
            waiting.remove(run)
            continue
          waiting.remove(run)
          bar.update()
        done, _ = futures.wait(active, 1, futures.FIRST_COMPLETED)
        for future in done:
          future.result()
          run = active.pop(future)
          bar.update()
          word = 'failed' if run.name in shared.failed else 'done'
          tqdm.tqdm.write(f'{run.name}: {word}', file=sys.stderr)
        bar.set_postfix_str(shared.status())
    except KeyboardInterrupt:
      tqdm.tqdm.write('Stopping: the runs save and end.', file=sys.stderr)
      shared.stop()
      pool.shutdown(cancel_futures=True)
      raise


def _locked(file):
  """Whether the lock of a file is ours now."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    return False


def _with_parent():
  """Ends a command as its parent ends, where the system can do that."""
  found = shutil.which('setpriv')
  return [found, '--pdeathsig', 'TERM'] if found else []


def _last_line(log):
  with log.open('rb') as file, contextlib.suppress(OSError):
    file.seek(max(0, log.stat().st_size - 4096))
    lines = file.read().decode(errors='replace').split('\n')
  return next((x.strip() for x in reversed(lines) if x.strip()), '')


def _cores():
  have = hasattr(os, 'sched_getaffinity')  # not on a Mac
  return os.sched_getaffinity(0) if have else range(os.cpu_count())


def _pin(cores):
  """Of this thread, and so of what it starts.

  Two unpinned XLA processes on two cores slow each other down several times.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, cores)


def _fitting():
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return max(1, min(len(_cores()), memory // MEMORY))


def _part(run):
  """Runs of one part come from one another, so one job makes them."""
  return run.source.name if run.source else run.name


def _parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m experiments.sweep',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('study')
  add('--data', default='data', help='folder of the data sets')
  add('--runs', default='runs', help='folder of the workdirs')
  add('--results', default=str(study.RESULTS), help='folder of the rows')
  add('--jobs', type=int, default=_fitting(), help='at a time')
  add('--part', type=int, help='of a job array')
  add('--print', action='store_true', help='the commands, and do nothing')
  add('--slurm', action='store_true', help='a job array, and do nothing')
  args = parser.parse_args(argv)
  if not 1 <= args.jobs <= len(_cores()):
    raise ValueError(f'--jobs={args.jobs}; expected 1 to {len(_cores())}.')
  return args


def _found(runs, folder):
  """The runs, each with the workdir in `folder` that has finished it."""
  others, found = study.elsewhere(folder), {}
  for run in runs:
    if run.source:
      run = run._replace(source=found[run.source.name])
    elif not pathlib.Path(run.workdir).exists():
      workdir = others.get(study.config_hash(run), run.workdir)
      run = run._replace(workdir=workdir)
    found[run.name] = run
  return list(found.values())


def main(argv):
  args = _parse(argv)
  runs = study.plan(args.study, args.data, args.runs)
  name = study.path_of(args.study).stem
  shown = {run.name: run for run in study.plan(args.study)}
  parts = list(dict.fromkeys(map(_part, runs)))
  if args.part is not None:
    runs = [run for run in runs if parts.index(_part(run)) == args.part]
  runs = _found(runs, args.runs)
  shared = Sweep(name, args.results, shown)
  if args.slurm or args.print:
    left = {run.name: shared.todo(run) for run in runs}
    if args.slurm:
      numbers = {parts.index(_part(run)) for run in runs if left[run.name]}
      words = shlex.join(x for x in argv if x != '--slurm')
      listed = ','.join(map(str, sorted(numbers)))
      print(SLURM.format(name=name, parts=listed, words=words), end='')
    for commands in left.values() if args.print else ():
      lines = [shlex.join(['./launch.sh', 'python', *x]) for x in commands]
      if lines:
        print(' && '.join(lines))
    return
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    sweep(shared, runs, args.jobs)
  except KeyboardInterrupt:
    sys.exit('sweep: stopped; the same command goes on.')
  for run, words in sorted(shared.failed.items()):
    print(f'sweep: {run} failed: {words}', file=sys.stderr)
  print(f'{len(runs) - len(shared.failed)} of {len(runs)} runs are finished.')
  sys.exit(1 if shared.failed else 0)


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except (ValueError, OSError) as e:
    sys.exit(f'sweep: {" ".join(str(e).split())}')
