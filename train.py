# SPDX-License-Identifier: Apache-2.0
r"""Trains one experiment, evaluates it, and resumes it where it stopped.

  python train.py --config=configs/wmt14_mhe_mul.py:sample
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0              # go on
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0 --eval_only
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0 --config.every.log=10
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0 --profile=210:213

A config names a task, a model and an optimiser. This file builds the three,
joins them into one compiled step over the devices, and loops. Which fields may
change when a run goes on is listed in collab/runtime/changes.py. Errors end in
one line; COLLAB_TRACEBACK=1 shows where they come from.
"""

import contextlib
import functools
import sys
import time

import jax
from ml_collections import ConfigDict

from collab import command, model_json, models, tasks
from collab.data import pipeline
from collab.runtime import checkpoint, final_params, plan, processes
from collab.runtime import workdir as workdirs
from collab.training import (
  evaluation,
  feed,
  nonfinite,
  optim,
  session,
  sharding,
  summary,
)
from collab.training import state as states
from collab.training import step as steps
from collab.training.experiment import Experiment
import configs


def run(
  config: ConfigDict, workdir: str, eval_only: bool = False, profile: str = ''
) -> dict | None:
  """Trains to config.total_steps; returns test metrics, None if stopped."""
  plan.check(config)
  traced = plan.traced(config, profile, eval_only)
  mesh = sharding.make_mesh(config.fsdp, config.tensor)
  due, last = functools.partial(plan.due, config), config.total_steps

  # What the config names ------------------------------------------------------

  models.check(config.data, **config.model.to_dict())  # before hours of data
  tx, schedule = optim.build(total_steps=last, **config.optim)
  with processes.first('the data'):  # makes caches, which the others read
    task = tasks.build(
      **config.task,
      data=config.data,
      workdir=workdir,
      seed=config.seed,
      shard=(jax.process_index(), jax.process_count()),
    )
  model_json.check(workdir, task.meaning)
  model = models.build(**config.model.to_dict(), **task.model_kwargs)
  task.check(model)
  made = Experiment(config, workdir, task, model, tx, schedule, mesh)
  rows = sharding.batch_sharding(mesh)
  batch = sharding.put(task.batch(0), rows)  # refuses what does not divide

  # State, step, evaluation ----------------------------------------------------

  checkpoints = checkpoint.Checkpoints(
    workdir,
    config.checkpoint.keep,
    config.checkpoint.best,
    scheduled=functools.partial(due, 'checkpoint'),
    read_only=eval_only,
  )
  step, state, abstract = states.start(made, checkpoints, eval_only)
  summary.start(made, abstract, step)
  _, dropout_key = jax.random.split(jax.random.key(config.seed))
  train_step, end = steps.build(made, state), step if eval_only else last
  if step < end:
    train_step = steps.compiled(train_step, state, batch, dropout_key)
  evaluate = evaluation.build(task, model, mesh)
  check = nonfinite.watch(
    config.skip_nonfinite, state['params'], task.rows, workdir
  )

  # The loop -------------------------------------------------------------------

  with (
    session.opened(
      made, checkpoints, step, abstract['params'], traced, eval_only
    ) as live,
    contextlib.closing(feed.Feed()) as fed,
  ):
    stream = pipeline.stream(task.batch, step, end)
    seen, since = [], time.monotonic()  # since the last look at them
    for batch in fed.batches(sharding.put(x, rows) for x in stream):
      state, scalars, health = train_step(state, batch, dropout_key)
      seen.append(health)
      fed.given(health)
      step, scores = step + 1, {}
      live.trace(step, health)
      stop = live.stopped(step)  # one answer for all of this step
      if due('log', step) or due('checkpoint', step) or stop:
        check(jax.device_get(seen), step, int(scalars['skipped']))
        seconds, since = time.monotonic() - since, time.monotonic()
        speed, seen = live.meter.row(len(seen), seconds, fed.lost()), []
      if due('log', step):
        row = jax.device_get(scalars)
        shown = dict(loss=row['loss'], lr=row['lr'], **speed)
        row = {f'train/{name}': value for name, value in row.items()}
        live.writer.write(step, row | speed | {'time/seconds': seconds})
        live.progress.show(step, shown)
      if due('eval', step):
        began = time.monotonic()
        scores, _ = evaluate(states.params_of(state, abstract), 'val')
        scores = {f'val/{name}': value for name, value in scores.items()}
        live.writer.write(step, scores)
        checkpoints.check_metrics(scores)
        since += time.monotonic() - began
      if due('checkpoint', step) or stop:
        live.writer.flush()
        checkpoints.save(step, states.on_disk(state, abstract), scores)
      live.progress.step()
      if stop and step < last:
        step = checkpoints.newest()  # it is written now
        print(f'Stopped and saved at step {step}; --workdir={workdir} goes on.')
        return None

    # The end ------------------------------------------------------------------

    if config.checkpoint.final == 'best' or config.checkpoint.average > 1:
      params = final_params.choose(config, checkpoints, abstract['params'])
    else:
      params = states.params_of(state, abstract)
  scores, examples = evaluate(params, 'test')
  summary.end(made, params, step, scores, examples)
  return scores


def main(
  config: ConfigDict,
  workdir: str,
  eval_only: bool,
  results: str,
  profile: str = '',
) -> None:
  """Runs what a command line says, in a workdir that no other run uses."""
  with workdirs.owned(config, workdir, eval_only):
    if results:
      summary.check_results(results, workdir)
    scores = run(config, workdir, eval_only, profile)
    if scores and results:
      summary.append(workdir, results)


if __name__ == '__main__':
  if '--help' in sys.argv:
    __doc__ += f'\n{configs.overview()}'
  command.train(main, configs.check)
