# SPDX-License-Identifier: Apache-2.0
r"""Trains one experiment, evaluates it, and resumes it where it stopped.

  python train.py --config=configs/wmt14_mhe_mul.py:sample
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0              # go on
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0 --eval_only
  python train.py --workdir=runs/wmt14_mhe_mul-sample-s0 --config.every.log=10

A config names a task, a model and an optimiser. This file builds the three,
joins them into one compiled step over the devices, and loops. What a run may go
on with says collab/runtime/changes.py. What a user can mend ends in one line;
COLLAB_TRACEBACK=1 shows where it came from.
"""

import contextlib
import functools
import os
import re
import sys
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import optax

from collab import command, model_json, models, tasks
from collab.data import pipeline
from collab.runtime import checkpoint, interrupt, processes
from collab.runtime import workdir as workdirs
from collab.training import (
  evaluation,
  gradients,
  init_from,
  logs,
  nonfinite,
  optim,
  sharding,
  summary,
)
import configs

try:
  CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
except flags.Error as e:  # it looks into what --flagfile names
  sys.exit(f'train.py: {e}')
WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Of the run; default runs/<config>[-<argument>]-s<seed>.'
)
RESULTS = flags.DEFINE_string(
  'results', '', 'A .jsonl file that the result is appended to as well.'
)
EVAL_ONLY = flags.DEFINE_bool('eval_only', False, 'Evaluate, do not train.')


def run(config, workdir, eval_only=False):
  """Trains to config.total_steps; returns test metrics, None if stopped."""

  last, every = config.total_steps, config.every

  def due(what, step):
    first = what == 'log' and step == 1  # a user sees at once that it runs
    return first or step == last or step % every[what] == 0

  checkpoint.check(config)

  # The parts that a config names ----------------------------------------------

  shard = jax.process_index(), jax.process_count()
  with processes.first():  # makes tokenizer and caches, the others read them
    task = tasks.build(
      **config.task,
      data=config.data,
      workdir=workdir,
      seed=config.seed,
      shard=shard,
    )
  model_json.check(workdir, task.meaning)
  model = models.build(**config.model.to_dict(), **task.model_kwargs)
  task.check(model)
  tx, schedule = optim.build(total_steps=last, **config.optim)
  rates = lambda steps: optim.build(total_steps=steps, **config.optim)[1]
  mesh = sharding.make_mesh(config.fsdp)
  split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

  # State: one tree, made on the devices that hold it --------------------------

  # Keys are arguments: a program is compiled once for all seeds.
  init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
  sharding.put(task.batch(0), split)  # refuses what does not divide

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    state = dict(step=jnp.int32(0), params=params, opt=tx.init(params))
    return state | (dict(ema=params) if config.optim.ema else {})

  abstract = jax.eval_shape(init, init_key)
  shardings = sharding.state_shardings(mesh, abstract)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
  workdirs.check_data(workdir, task, workdirs.read(workdir)['first_steps'])
  checkpoints = checkpoint.Checkpoints(
    workdir,
    config.checkpoint.keep,
    config.checkpoint.best,
    functools.partial(due, 'checkpoint'),
    eval_only,
  )
  step, state = checkpoints.restore(abstract) or (0, None)
  if state is None:
    if eval_only:
      raise ValueError(f'{workdir} has no checkpoint to evaluate.')
    workdirs.begin(workdir)
    state = jax.jit(init, out_shardings=shardings)(init_key)
    if config.init_from:
      params = init_from.load(
        config.init_from, state['params'], task.meaning, whole
      )
      state = jax.device_put(state | dict(params=params), shardings)
      if config.optim.ema:
        state['ema'] = jax.tree.map(jnp.copy, state['params'])
  workdirs.go_on(config, workdir, step, rates, eval_only)
  summary.start(config, workdir, task, model, state['params'], mesh, step)
  check = nonfinite.watch(
    config.skip_nonfinite, abstract['params'], task.rows, workdir
  )

  # The step -------------------------------------------------------------------

  def loss(params, batch, key):
    params = jax.lax.with_sharding_constraint(params, whole)  # gathers them
    total, weight, aux = task.loss(model, params, batch, {'dropout': key})
    return total, (weight, aux)

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state['step'])
    (mean, (weight, aux)), grads = gradients.accumulate(
      loss, state['params'], batch, key, config.accumulate
    )
    updates, opt = tx.update(grads, state['opt'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    new = dict(step=state['step'] + 1, params=params, opt=opt)
    if config.optim.ema:
      new['ema'] = optim.ema_update(state['ema'], params, config.optim.ema)
    health = nonfinite.health(mean, grads)
    new = nonfinite.unless_finite(health, state, new)
    scalars = dict(
      loss=mean,
      lr=schedule(optim.updates(state['opt'])),
      gradient_norm=health.norm,
      skipped=new['step'] - optim.updates(new['opt']),
      weight=weight,
      **{name: value / weight for name, value in aux.items()},
    )
    return new, scalars, health

  train_step = jax.jit(
    train_step,
    donate_argnums=0,
    in_shardings=(shardings, split, None),
    out_shardings=(shardings, whole, whole),
  )

  evaluate = evaluation.build(task, model, mesh)

  # The loop -------------------------------------------------------------------

  seen, since = [], time.monotonic()  # since the last look at them

  with contextlib.ExitStack() as stack:
    stack.enter_context(interrupt.first_as_sigterm())
    stack.enter_context(contextlib.closing(checkpoints))
    if not eval_only:
      writer = logs.Writer(workdir, step, config.wandb)
      progress = logs.Progress(step, last)
      stack.enter_context(contextlib.closing(writer))
      stack.enter_context(contextlib.closing(progress))
    stopped = stack.enter_context(processes.stop_signal())

    for batch in pipeline.stream(task.batch, step, step if eval_only else last):
      batch = sharding.put(batch, split)
      state, scalars, health = train_step(state, batch, dropout_key)
      seen.append(health)
      jax.block_until_ready(seen[-2:-1])  # one step ahead of the device
      step, scores = step + 1, {}
      stop = stopped(step)  # one answer for all of this step
      if due('log', step) or due('checkpoint', step) or stop:
        check(jax.device_get(seen), step, int(scalars['skipped']))
        seconds, since = time.monotonic() - since, time.monotonic()
        rate, seen = len(seen) * task.units_per_step / seconds, []
      if due('log', step):
        row = jax.device_get(scalars)
        speed = {f'{task.unit}_per_second': rate}
        shown = dict(loss=row['loss'], lr=row['lr'], **speed)
        row = {f'train/{name}': value for name, value in row.items()}
        row |= speed | {'time/seconds': seconds}
        writer.write(step, row)
        progress.show(step, shown)
      if due('eval', step):
        scores, _ = evaluate(state.get('ema', state['params']), 'val')
        scores = {f'val/{name}': value for name, value in scores.items()}
        writer.write(step, scores)
        checkpoints.check_best(scores)
        since = time.monotonic()
      if due('checkpoint', step) or stop:
        checkpoints.save(step, state, scores)
      progress.step()
      if stop and step < last:
        step = checkpoints.newest()  # it is written now
        print(f'Stopped and saved at step {step}; --workdir={workdir} goes on.')
        return None

    # The end ------------------------------------------------------------------

    params = state.get('ema', state['params'])
    if config.checkpoint.final == 'best' or config.checkpoint.average > 1:
      params = checkpoint.final_params(config, checkpoints, abstract['params'])
  scores, examples = evaluate(params, 'test')
  summary.end(config, workdir, model, params, step, scores, examples)
  return scores


def parse(argv):
  """The flags; errors as exceptions, for one line each."""
  try:
    rest = flags.FLAGS([command.path(word) for word in argv], known_only=True)
    if flags.FLAGS['config'].present:
      configs.check(config_flags.get_config_filename(flags.FLAGS['config']))
    elif WORKDIR.value:
      flags.FLAGS.config = workdirs.override(WORKDIR.value, rest)
      return rest[:1]
    return flags.FLAGS(rest)
  except OSError:  # of a config that is not there, or that opens what is not
    configs.check(config_flags.get_config_filename(flags.FLAGS['config']))
    raise
  except (KeyError, AttributeError) as e:  # of ml_collections
    (inner,) = e.args  # the text, or an exception of the text
    words = '. '.join(str(*getattr(inner, 'args', [inner])).split('\n'))
    raise ValueError(f'--config has no field {words}') from e


def main(argv):
  logging.set_verbosity(logging.WARNING)
  processes.join()
  if len(argv) > 1:
    raise ValueError(f'Unexpected arguments: {" ".join(argv[1:])}.')
  config, workdir = CONFIG.value, WORKDIR.value
  if config is None:
    raise ValueError('Give --config=configs/....py, or --workdir=DIR to go on.')
  if not workdir:
    name = config_flags.get_config_filename(flags.FLAGS['config'])
    workdir = workdirs.default(name, config)
  with processes.first():
    if EVAL_ONLY.value:
      workdirs.read(workdir)  # there is a run
    workdirs.claim(config, workdir)
    workdirs.lock(workdir)
    workdirs.claim(config, workdir)  # no other run has been here in between
  abandon = functools.partial(workdirs.abandon, workdir)
  try:
    with interrupt.at_once(abandon):
      scores = run(config, workdir, EVAL_ONLY.value)
    if scores and RESULTS.value:
      summary.append(workdir, RESULTS.value)
  except Exception:
    abandon()
    raise


if __name__ == '__main__':
  # Compiled programs are kept, so that the next start is quick.
  home = os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache'))
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{home}/collab')
  jax.config.update(
    'jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR']
  )
  try:
    app.run(main, flags_parser=parse)
  except KeyboardInterrupt:
    print('train.py: stopped by Ctrl-C.', file=sys.stderr)
    sys.exit(130)  # as shells have it
  except Exception as e:
    processes.leave(e)
    if os.environ.get('COLLAB_TRACEBACK'):
      raise
    # ml_collections wraps what a config raises in the text of a traceback.
    words = re.sub(r'Traceback \(most.*\n\w+: ', '', str(e), flags=re.DOTALL)
    sys.exit(f'train.py: {" ".join(words.split()) or type(e).__name__}')
