# SPDX-License-Identifier: Apache-2.0
r"""Trains runs that differ in seed and learning rate alone as one program.

  ./launch.sh python -m experiments.lanes STUDY --data=DIR --jobs=8
  ./launch.sh python -m experiments.sweep STUDY --data=DIR --collect

A small model leaves most of a GPU idle. Here each run is a lane: one compiled
program trains them all, by jax.vmap over states and batches, and a chunk of
steps is one call. A lane has the initial values, the batches and the random
numbers that train.py gives its run, and leaves the same parameters, result and
examples; of metrics and checkpoints only the last. Runs that have a result or a
row are left alone. A lane that was stopped in training begins again; one that
was stopped in its test is only tested. The second command makes the rows. They
have `lanes`, how many runs shared the program (not if it was only tested), and
`seconds` is a lane's share of the time.

Several jobs share a GPU. RUNS/STUDY/RUN.lanes.log has the output of the job
whose first lane is RUN.

The program has the learning rate of its first lane. The updates of every
optimiser in collab.training.optim are linear in the rate, so those of another
lane are multiplied by the ratio of the rates.
"""

from collections.abc import Callable
from concurrent import futures
import contextlib
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from collab import checks, command, models, tasks
from collab.data import pipeline
from collab.io import json_text, node_files, paths
from collab.runtime import checkpoint
from collab.runtime import workdir as workdirs
from collab.training import (
  evaluation,
  logs,
  nonfinite,
  optim,
  sharding,
  summary,
)
from collab.training import state as states
from collab.training import step as steps
from collab.training.experiment import Experiment
from experiments import jobs, study

CHUNK = 50  # steps of a call, at most


class Lane(NamedTuple):
  """A run within the program.

  Attributes:
    name: of the run.
    made: Experiment of the run.
    checkpoints: of its workdir.
    step: number of steps done, all or none.
    state: after them.
    abstract: shapes and shardings of the state on disk.
    writer: of its metrics.
    check: see `nonfinite.watch`.
  """

  name: str
  made: Experiment
  checkpoints: checkpoint.Checkpoints
  step: int
  state: dict
  abstract: dict
  writer: logs.Writer
  check: Callable


def groups(runs: list[study.Run]) -> list[list[study.Run]]:
  """Puts runs together whose configs differ in seed and optim.lr alone.

  Raises:
    ValueError: a run cannot be a lane.
  """
  found = {}
  for run in runs:
    where = f'{run.name} cannot be a lane'
    if run.source:
      raise ValueError(f'{where}: it is converted from {run.source.name}.')
    config = study.config(run)
    kept = config.checkpoint
    early = kept.final == 'best' and config.every.eval < config.total_steps
    if early or kept.average > 1:
      raise ValueError(
        f'{where}: checkpoint.final={kept.final!r} and checkpoint.average='
        f"{kept.average}; expected 'last' and 1."
      )
    if config.optim.end_lr or not config.optim.lr:
      raise ValueError(
        f'{where}: optim.lr={config.optim.lr}, end_lr={config.optim.end_lr}; '
        'expected more than 0, and 0.'
      )
    config = config.to_dict()
    rest = config | dict(seed=0, optim=config['optim'] | dict(lr=0.0))
    found.setdefault(json_text.to_json(rest), []).append(run)
  return list(found.values())


def train(runs: list[study.Run]) -> list[str]:
  """Trains and tests one of `groups`; returns a line for each that diverged."""
  if jax.device_count() > 1:
    raise ValueError(
      f'There are {jax.device_count()} devices; expected one, as with '
      'CUDA_VISIBLE_DEVICES=0.'
    )
  mesh = sharding.make_mesh()
  with contextlib.ExitStack() as stack:
    lanes = [_open(run, mesh, stack) for run in runs]
    first = lanes[0].made
    evaluate = evaluation.build(first.task, first.model, mesh)
    ended = {lane.name: lane.state for lane in lanes if lane.step}
    new, diverged = [lane for lane in lanes if not lane.step], {}
    for lane, state in zip(new, _states(new, diverged), strict=True):
      if lane.name not in diverged:
        try:
          _save(lane, state, evaluate)
          ended[lane.name] = state
        except FloatingPointError as e:
          diverged[lane.name] = f'{lane.name}: {e}'
    for lane in lanes:  # after all are saved, because it may take long
      if lane.name in ended:
        params = states.params_of(ended[lane.name], lane.abstract)
        how = {} if lane.step else dict(lanes=len(new))
        tested = evaluate(params, 'test')
        last = lane.made.config.total_steps
        summary.end(lane.made, params, last, *tested, **how)
  return list(diverged.values())


def _states(lanes: list[Lane], diverged: dict) -> list[dict]:
  """Trains lanes; adds {name: line} of those that diverged to a dict."""
  if not lanes:
    return []
  last = lanes[0].made.config.total_steps
  chunk = max(n for n in range(1, CHUNK + 1) if last % n == 0)

  def batches(i):
    steps_of = range(i * chunk, (i + 1) * chunk)
    made = [_stack(x.made.task.batch(at) for x in lanes) for at in steps_of]
    return _stack(made)

  state = jax.tree.map(lambda *x: jnp.stack(x), *(x.state for x in lanes))
  some_steps = program([x.made for x in lanes], lanes[0].state)
  some_steps = steps.compiled(some_steps, state, batches(0))
  stream = pipeline.stream(batches, 0, last // chunk)
  bar = tqdm.tqdm(stream, total=last // chunk, disable=None)
  since = time.monotonic()
  for i, some in enumerate(bar, 1):
    state, told = some_steps(state, some)
    scalars, health = jax.device_get(told)
    seconds, since = time.monotonic() - since, time.monotonic()
    for at, lane in enumerate(lanes):
      row = {f'train/{k}': x[-1, at] for k, x in scalars.items()}
      row['time/seconds'] = seconds / len(lanes)
      lane.writer.write(i * chunk, row)
      seen = [_at(_at(health, k), at) for k in range(chunk)]
      try:
        lane.check(seen, i * chunk, int(scalars['skipped'][-1, at]))
      except FloatingPointError as e:
        diverged.setdefault(lane.name, f'{lane.name}: {e}')
  return [_at(state, at) for at in range(len(lanes))]


def program(made: list[Experiment], state: dict) -> Callable:
  """Makes the function that trains all lanes for some steps.

  Args:
    made: of each lane; model, task and optimiser are those of the first.
    state: of a lane, for the shardings.

  Returns:
    A jitted function of states, a tree of [lanes, ...], and batches, a tree of
    [steps, lanes, ...]. It returns the new states, which take the place of the
    old ones, then scalars and Health of each step, trees of [steps, lanes].
  """
  first = made[0]
  factors = np.array([x.config.optim.lr / first.config.optim.lr for x in made])
  seeds = np.array([x.config.seed for x in made], np.uint32)
  keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed))[1])(seeds)

  def step(state, batch, key, factor):
    def update(grads, opt, params):
      updates, opt = first.tx.update(grads, opt, params)
      return jax.tree.map(lambda x: factor * x, updates), opt

    tx = optax.GradientTransformation(first.tx.init, update)
    train_step = steps.function(first._replace(tx=tx), like)
    state, scalars, health = train_step(state, batch, key)
    return state, (scalars | dict(lr=factor * scalars['lr']), health)

  def all_lanes(state, batch):
    return jax.vmap(step)(state, batch, keys, factors.astype(np.float32))

  like = state
  return jax.jit(
    lambda state, batches: lax.scan(all_lanes, state, batches),
    donate_argnums=0,
  )


def _open(run: study.Run, mesh: Any, stack: contextlib.ExitStack) -> Lane:
  """Builds a run as train.py does, in its workdir, until `stack` closes."""
  config = study.config(run)
  stack.enter_context(workdirs.owned(config, run.workdir, False))
  tx, schedule = optim.build(total_steps=config.total_steps, **config.optim)
  task = tasks.build(
    **config.task,
    data=config.data,
    workdir=run.workdir,
    seed=config.seed,
    shard=(0, 1),
  )
  model = models.build(**config.model.to_dict(), **task.model_kwargs)
  task.check(model)
  made = Experiment(config, run.workdir, task, model, tx, schedule, mesh)
  checkpoints = checkpoint.Checkpoints(
    run.workdir, config.checkpoint.keep, config.checkpoint.best
  )
  stack.callback(checkpoints.close)
  step, state, abstract = states.start(made, checkpoints, False)
  if step not in (0, config.total_steps):
    raise ValueError(f'{run.workdir} is at step {step}: train.py has to go on.')
  summary.start(made, abstract, step)
  writer = logs.Writer(run.workdir, step)
  stack.enter_context(contextlib.closing(writer))
  check = nonfinite.watch(
    config.skip_nonfinite, state['params'], task.rows, run.workdir
  )
  return Lane(run.name, made, checkpoints, step, state, abstract, writer, check)


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack(x), *trees)


def _at(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def _save(lane: Lane, state: dict, evaluate: Callable) -> None:
  """Validates and saves, as train.py does after its last step."""
  last = lane.made.config.total_steps
  scores, _ = evaluate(states.params_of(state, lane.abstract), 'val')
  scores = {f'val/{name}': value for name, value in scores.items()}
  lane.writer.write(last, scores)
  lane.checkpoints.check_metrics(scores)
  lane.checkpoints.save(last, states.on_disk(state, lane.abstract), scores)


def _job(runs: list[study.Run], words: list[str]) -> str:
  """Trains a group in a process of its own; returns '' or what it said last."""
  log = pathlib.Path(f'{runs[0].workdir}.lanes.log')
  log.parent.mkdir(parents=True, exist_ok=True)
  only = ','.join(run.name for run in runs)
  argv = [sys.executable, '-m', __spec__.name, *words, f'--only={only}']
  argv = [*jobs.with_parent(), *argv]
  shared = dict(XLA_PYTHON_CLIENT_PREALLOCATE='false')
  with log.open('wb') as file:
    done = subprocess.run(
      argv, env=os.environ | shared, stdout=file, stderr=file, check=False
    )
  if not done.returncode:
    return ''
  lines = log.read_text(errors='replace').split('\n')
  return f'{only}: {next(filter(None, reversed(lines)), "")} ({log})'


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('study')
  add('--data', default='data', help='folder of the data sets, default data')
  add('--runs', default=paths.runs_folder(), help='folder of the workdirs')
  add('--jobs', type=int, default=1, help='programs at a time')
  add('--only', metavar='RUN,RUN', help='of the study, default all')
  args = parser.parse_args(argv)
  checks.at_least('--jobs', args.jobs, 1)
  runs = study.plan(args.study, args.data, args.runs)
  if args.only:
    for name in (names := args.only.split(',')):
      checks.one_of('--only', name, [run.name for run in runs])
    runs = [run for run in runs if run.name in names]
  shown = {run.name: run for run in study.plan(args.study)}
  kept = jobs.Jobs(study.name_of(args.study, {}), study.RESULTS, shown)
  undone = lambda run: bool(kept.todo(run)) and not study.finished(run)
  found = groups(list(filter(undone, runs)))
  if len(found) == 1:
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
      jax.config.update('jax_compilation_cache_dir', str(node_files.kept()))
    failed = train(found[0])
  else:
    words = [args.study, f'--data={args.data}', f'--runs={args.runs}']
    with futures.ThreadPoolExecutor(args.jobs) as pool:
      told = pool.map(lambda group: _job(group, words), found)
      bar = tqdm.tqdm(told, total=len(found), unit='program', disable=None)
      failed = list(filter(None, bar))
  for line in failed:
    print(f'lanes: {line}', file=sys.stderr)
  left = sum(map(undone, runs))
  print(f'{len(runs) - left} of {len(runs)} runs are finished.')
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  with command.errors_in_a_line('lanes'):
    try:
      main(sys.argv[1:])
    except KeyboardInterrupt:
      sys.exit('lanes: stopped; the same command goes on.')
