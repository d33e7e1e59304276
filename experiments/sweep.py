# SPDX-License-Identifier: Apache-2.0
r"""Makes a study's unfinished runs, as many at a time as fit.

  ./launch.sh python -m experiments.sweep STUDY --data=DIR
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --print
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --slurm | sbatch

STUDY is a name in experiments/studies, or a path. A run is finished if
experiments/results has its row (by config and seed), or if its workdir, or
another one in --runs with the same config, has its result. Then its row and its
examples are taken from there. All other runs are started or resumed. Ending the
sweep by Ctrl-C, SIGTERM or kill -9 loses nothing; the same command resumes it.
RUNS/STUDY/RUN.log has the output of a run. --collect is for runs that were
started by hand: it records finished ones and trains nothing. On a CPU each job
has its own cores; on a machine with one accelerator use --jobs=1.
"""

from concurrent import futures
import os
import pathlib
import queue
import shlex
import signal
import sys

import tqdm

from collab import command
from experiments import jobs, results, study

MEMORY = 4 << 30  # memory of a job, with a margin
SLURM = r"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array={parts}
#SBATCH --cpus-per-task=1
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:TERM@120
exec ./launch.sh python -m experiments.sweep {words} \
  --jobs=1 --part="$SLURM_ARRAY_TASK_ID"
"""


def sweep(shared: jobs.Jobs, runs: list[study.Run], number: int):
  """Makes runs, `number` at a time, sources first, and shows progress."""
  slots = queue.SimpleQueue()
  cores = sorted(_cores())
  for i in range(number):
    slots.put(cores[i::number])
  waiting, active = list(runs), {}
  bar = tqdm.tqdm(total=len(runs), unit='run', disable=None)
  pool = futures.ThreadPoolExecutor(
    number, initializer=lambda: _pin(slots.get())
  )
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
            active[pool.submit(shared.make, run)] = run
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


def _fitting():
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return max(1, min(len(_cores()), memory // MEMORY))


def _part(run):
  """Returns the part of the job array that makes a run: that of its source."""
  return run.source.name if run.source else run.name


def _parse(argv):
  parser = command.Parser(
    prog='python -m experiments.sweep', description=__doc__
  )
  add = parser.add_argument
  add('study')
  add('--data', help='folder of the data sets, default data')
  add('--runs', default='runs', help='folder of the workdirs')
  add('--results', default=str(study.RESULTS), help='folder of the rows')
  add('--jobs', type=int, default=_fitting(), help='at a time')
  add('--collect', action='store_true', help='train nothing')
  add('--part', type=int, help='of a job array')
  add('--print', action='store_true', help='the commands, and do nothing')
  add('--slurm', action='store_true', help='a job array, and do nothing')
  args = parser.parse_args(argv)
  if args.data is not None and not os.path.isdir(args.data):
    raise ValueError(f'--data={args.data}: there is no such folder.')
  if not 1 <= args.jobs <= len(_cores()):
    raise ValueError(f'--jobs={args.jobs}; expected 1 to {len(_cores())}.')
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


def main(argv: list[str]):
  args = _parse(argv)
  _check_place()
  runs = study.plan(args.study, args.data or 'data', args.runs)
  name = study.path_of(args.study).stem
  for path in sorted(pathlib.Path(args.results).glob('*.jsonl')):
    results.rows(path)  # refused once here, not by each run
  shown = {run.name: run for run in study.plan(args.study)}
  parts = list(dict.fromkeys(map(_part, runs)))
  if args.part is not None:
    if not 0 <= args.part < len(parts):
      raise ValueError(f'--part={args.part}; expected 0 to {len(parts) - 1}.')
    runs = [run for run in runs if parts.index(_part(run)) == args.part]
  runs = _found(runs, args.runs)
  shared = jobs.Jobs(name, args.results, shown, args.collect)
  if args.slurm or args.print:
    left = {run.name: shared.todo(run) for run in runs}
    if not any(left.values()):
      print(f'sweep: all runs of {name} are finished.', file=sys.stderr)
      return
    if args.slurm:
      numbers = {parts.index(_part(run)) for run in runs if left[run.name]}
      words = shlex.join(x for x in argv if x != '--slurm')
      listed = ','.join(map(str, sorted(numbers)))
      print(SLURM.format(name=name, parts=listed, words=words), end='')
    for commands in filter(None, left.values()) if args.print else ():
      lines = [f'./launch.sh {study.command_line(x)}' for x in commands]
      print(' && '.join(lines))
    return
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    sweep(shared, runs, args.jobs)
  except KeyboardInterrupt:
    sys.exit('sweep: stopped; the same command goes on.')
  for run, words in sorted(shared.failed.items()):
    print(f'sweep: {run} failed: {words}', file=sys.stderr)
  print(f'{len(shared.recorded)} of {len(runs)} runs are finished.')
  sys.exit(1 if shared.failed else 0)


if __name__ == '__main__':
  with command.errors_in_a_line('sweep'):
    main(sys.argv[1:])
