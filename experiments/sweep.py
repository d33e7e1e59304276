# SPDX-License-Identifier: Apache-2.0
r"""Makes a study's unfinished runs, as many at a time as fit.

  ./launch.sh python -m experiments.sweep STUDY --data=DIR
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --print
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --slurm | sbatch
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --sky=gs://NAME
  ./launch.sh python -m experiments.sweep STUDY --grid=optim.lr=1e-3,3e-3

STUDY is a name in experiments/studies, or a path. A run is finished if
experiments/results has its row (by config and seed), or if its workdir, or
another one in --runs with the same config, has its result. Then its row and its
examples are taken from there. All other runs are started or resumed. Ending the
sweep by Ctrl-C, SIGTERM or kill -9 loses nothing; the same command resumes it.
RUNS/STUDY/RUN.log has the output of a run. --collect is for runs that were
started by hand: it records finished ones and trains nothing.

Each job has its own cores and, where there are GPUs, one of them. With --gpus=0
every job sees all of them. On the host of a TPU use --jobs=1. --slurm prints a
job array, to which sbatch adds what a job needs (`| sbatch --gpus=1
--time=8:00:00`). --sky prints a job of SkyPilot for other clouds, with its
bucket as the folder of the workdirs.

--grid makes each arm with each of the values of a field of its config. It may
be given for several fields. These runs are STUDY-grid, and their rows lie in
RUNS, apart from those of the study.
"""

import ast
from concurrent import futures
import math
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys

import tqdm

from collab import checks, command
from collab.io import paths
from experiments import job_files, jobs, results, study

MEMORY = 4 << 30  # memory of a job, with a margin
BUCKET = re.compile(r'[a-z0-9]+://[\w./-]+', re.ASCII)


def sweep(
  shared: jobs.Jobs, runs: list[study.Run], number: int, gpus: list[str]
) -> None:
  """Makes runs, `number` at a time, and shows progress.

  Sources come before what is made of them. The first seed of all arms comes
  before the second of any, so that a sweep that was stopped compares them all.
  Of `gpus`, if there are any, each job has one.
  """
  slots, cores = queue.SimpleQueue(), sorted(_cores())
  for i in range(number):
    mine = {'CUDA_VISIBLE_DEVICES': gpus[i]} if gpus else {}
    slots.put((cores[i::number], mine))

  def make(run):
    slot = cores, variables = slots.get()
    _pin(cores)
    shared.make(run, variables)
    slots.put(slot)

  waiting, active = sorted(runs, key=lambda run: run.seed), {}
  bar = tqdm.tqdm(total=len(runs), unit='run', disable=None)
  pool = futures.ThreadPoolExecutor(number)
  with bar, pool:
    try:
      while waiting or active:
        undone = {run.name for run in [*waiting, *active.values()]}
        for run in list(waiting):
          source = run.source.name if run.source else ''
          if source in undone:
            continue
          waiting.remove(run)
          if source in shared.failed:
            shared.failed[run.name] = f'needs {source}, which failed'
            bar.update()
          else:
            active[pool.submit(make, run)] = run
        done, _ = futures.wait(active, 1, futures.FIRST_COMPLETED)
        for future in done:
          future.result()
          run = active.pop(future)
          bar.update()
          if run.name in shared.recorded:
            tqdm.tqdm.write(f'{run.name}: finished', file=sys.stderr)
        bar.set_postfix_str(shared.status())
    except KeyboardInterrupt:
      tqdm.tqdm.write('Stopping: the runs save and end.', file=sys.stderr)
      shared.stop()
      pool.shutdown(cancel_futures=True)
      raise


def _cores():
  have = hasattr(os, 'sched_getaffinity')  # a Mac lacks it
  return os.sched_getaffinity(0) if have else range(os.cpu_count())


def _pin(cores):
  """Binds this thread and its child processes to some cores.

  Two unpinned XLA processes on two cores slow each other down several times.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, cores)


def _gpus(number):
  """What CUDA calls the GPUs that jobs may have: `number`, or all if None."""
  given = os.environ.get('CUDA_VISIBLE_DEVICES')
  if given is not None:
    names = list(filter(None, given.split(',')))
  elif shutil.which('nvidia-smi'):
    said = subprocess.run(
      ['nvidia-smi', '--list-gpus'], stdout=subprocess.PIPE, check=False
    )
    listed = [x for x in said.stdout.splitlines() if x.startswith(b'GPU ')]
    names = [str(i) for i in range(len(listed))]
  else:
    names = [str(i) for i in range(number or 0)]
  if number is not None:
    checks.within('--gpus', number, 0, len(names))
  return names[:number]


def _grid(options):
  """{field: values} of options FIELD=VALUE,VALUE."""
  found = {}
  for option in options:
    field, _, values = option.partition('=')
    if not field or not values or field in found:
      raise ValueError(
        f'--grid={option}; expected FIELD=VALUE,VALUE, each field once.'
      )
    try:
      found[field] = ast.literal_eval(f'({values},)')
    except (ValueError, SyntaxError):  # words without quotes
      found[field] = tuple(values.split(','))
  return found


def _check_grid(runs, grid):
  """Refuses values that a config of the study does not take."""
  with checks.located('--grid'):
    for run in runs if grid else ():
      study.config(run)


def _part(run):
  """Returns the part of the job array that makes a run: that of its source."""
  return run.source.name if run.source else run.name


def _parse(argv):
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('study')
  add('--data', help='folder of the data sets, default data')
  add('--runs', default=paths.runs_folder(), help='folder of the workdirs')
  add('--results', help='folder of the rows')
  add('--grid', action='append', default=[], metavar='FIELD=VALUE,VALUE')
  add('--jobs', type=int, help='at a time, default what fits')
  add('--gpus', type=int, help='of this machine, default all')
  add('--collect', action='store_true', help='train nothing')
  add('--part', type=int, help='of a job array')
  add('--print', action='store_true', help='the commands, and do nothing')
  add('--slurm', action='store_true', help='a job array, and do nothing')
  add('--sky', metavar='BUCKET', help='a job of SkyPilot, and do nothing')
  args = parser.parse_args(argv)
  if args.data is not None and not os.path.isdir(args.data):
    raise ValueError(f'--data={args.data}: there is no such folder.')
  args.grid, args.gpus = _grid(args.grid), _gpus(args.gpus)
  most = min(len(_cores()), len(args.gpus) or math.inf)
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if args.jobs is None:
    args.jobs = max(1, min(most, memory // MEMORY))
  checks.within('--jobs', args.jobs, 1, most)
  if args.sky is not None and not BUCKET.fullmatch(args.sky):
    raise ValueError(f'--sky={args.sky}; expected a bucket, like gs://NAME.')
  if args.results is None:
    args.results = args.runs if args.grid else study.RESULTS
  return args


def _found(runs, folder):
  """Returns the runs, with workdirs in `folder` that have finished them."""
  others, found = study.elsewhere(folder), {}
  for run in runs:
    if run.source:
      run = run._replace(source=found[run.source.name])
    elif not pathlib.Path(run.workdir).exists():
      have = [others[x] for x in study.hashes(run) if x in others]
      run = run._replace(workdir=next(iter(have), run.workdir))
    found[run.name] = run
  return list(found.values())


def _check_place():
  """Raises a ValueError outside the project's folder.

  A study names configs and train.py relative to it. Elsewhere these would be
  files of another project, or of a folder of data.
  """
  project = study.ROOT.parent
  if not os.path.samefile(project, '.'):
    raise ValueError(f'Start it in {project}, not in {os.getcwd()}.')


def main(argv: list[str]) -> None:
  args = _parse(argv)
  _check_place()
  runs = study.plan(args.study, args.data or 'data', args.runs, args.grid)
  name = study.name_of(args.study, args.grid)
  _check_grid(runs, args.grid)
  for path in sorted(pathlib.Path(args.results).glob('*.jsonl')):
    results.rows(path)  # refused once here, not by each run
  shown = {run.name: run for run in study.plan(args.study, grid=args.grid)}
  parts = list(dict.fromkeys(map(_part, runs)))
  if args.part is not None:
    checks.within('--part', args.part, 0, len(parts) - 1)
    runs = [run for run in runs if parts.index(_part(run)) == args.part]
  runs = _found(runs, args.runs)
  shared = jobs.Jobs(name, args.results, shown, args.collect)
  if args.slurm or args.sky or args.print:
    left = {run.name: shared.todo(run) for run in runs}
    if not any(left.values()):
      print(f'sweep: all runs of {name} are finished.', file=sys.stderr)
      return
    numbers = {parts.index(_part(run)) for run in runs if left[run.name]}
    ours = '--slurm', '--sky', args.sky, f'--sky={args.sky}'
    job = name, sorted(numbers), [x for x in argv if x not in ours]
    if args.slurm:
      print(job_files.slurm(*job), end='')
    if args.sky:
      print(job_files.sky(*job, args.sky, args.runs, args.data), end='')
    for commands in filter(None, left.values()) if args.print else ():
      lines = [f'./launch.sh {study.command_line(x)}' for x in commands]
      print(' && '.join(lines))
    return
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    sweep(shared, runs, args.jobs, args.gpus)
  except KeyboardInterrupt:
    sys.exit('sweep: stopped; the same command goes on.')
  for run, words in sorted(shared.failed.items()):
    print(f'sweep: {run} failed: {words}', file=sys.stderr)
  print(f'{len(shared.recorded)} of {len(runs)} runs are finished.')
  sys.exit(1 if shared.failed else 0)


if __name__ == '__main__':
  with command.errors_in_a_line('sweep'):
    main(sys.argv[1:])
