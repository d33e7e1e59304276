# SPDX-License-Identifier: Apache-2.0
r"""Measures a training step, and the overhead of train.py and of its data.

  ./launch.sh python -m benchmarks.train_step [--save]

The model is `wmt14:small` on the bundled sample, so no data set is needed. For
each variant the compiled step is timed on a batch that is on the device, which
gives tokens/s and GFLOP/s beside those of a bare matrix product. The loop of
train.py is then timed beside the bare step, and batches/s of the data are
measured.

`products` is the time of the step's matrix products, each alone at its shape.
No step with these products is faster; `of limit` is `products` as a share of
the step's time.
"""

import argparse
import contextlib
import io
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax

from benchmarks import protocol
from collab import models, tasks
from collab.runtime import workdir as workdirs
from collab.training import evaluation, gradients, optim, sharding
from configs import wmt14
import train

VARIANTS = ('mha', 'sha', 'mqa', 'gqa', 'skv', 'el', 'collab', 'mhe_add')
VARIANTS += ('mhe_mul', 'mla')


def config_of(variant, **changes):
  """Returns wmt14:small with a variant, on the sample, sized for this table."""
  config = wmt14.get_config(f'small,{variant}')
  config.data.corpus = 'sample'
  config.update_from_flattened_dict(changes)
  return config


def bare_step(config, task):
  """Returns (step(params, opt, batch, key), its arguments), as in train.py."""
  model = models.build(**config.model.to_dict(), **task.model_kwargs)
  tx, _ = optim.build(total_steps=config.total_steps, **config.optim)
  batch = jax.tree.map(jnp.asarray, task.batch(0))
  params = jax.jit(model.init)(jax.random.key(0), batch)['params']

  def loss(params, batch, key):
    total, weight, aux = task.loss(model, params, batch, {'dropout': key})
    return total, (weight, aux)

  mesh = sharding.make_mesh()
  specs = jax.tree.map(lambda _: PartitionSpec(), params)
  value_and_grad = gradients.accumulate(loss, mesh, specs)

  def step(params, opt, batch, key):
    (mean, aux), grads = value_and_grad(params, batch, key)
    updates, opt = tx.update(grads, opt, params)
    logged = mean, aux, optax.tree.norm(grads)  # as in train.py's step
    return optax.apply_updates(params, updates), opt, logged

  return step, (params, tx.init(params), batch, jax.random.key(0))


def loop_rate(config, steps):
  """Returns steps/s of train.py and of the bare step, alternating in one run.

  train.py's figure comes from its own log, without the first interval.
  """
  changes = {'total_steps': steps, 'optim.warmup_steps': 1}
  changes |= {'every.log': steps // 4, 'every.eval': 10**9}
  changes |= {'every.checkpoint': 10**9, 'checkpoint.average': 1}
  config.update_from_flattened_dict(changes)
  with tempfile.TemporaryDirectory() as workdir:
    task = build_task(config, workdir)
    step, arguments = bare_step(config, task)
    run = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    params, opt, batch, key = arguments
    bare = []
    # The final evaluation translates, which is not measured here.
    kept = evaluation.build
    evaluation.build = lambda *_: lambda *_: ({}, {})
    try:
      workdirs.claim(config, workdir)
      for part in range(2):
        start = time.perf_counter()
        for _ in range(steps // 2):
          params, opt, logged = run(params, opt, batch, key)
          jax.block_until_ready(logged)
        bare.append((steps // 2) / (time.perf_counter() - start))
        if part == 0:
          with contextlib.redirect_stdout(io.StringIO()):
            train.run(config, workdir)
    finally:
      evaluation.build = kept
    lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    seconds = [row['time/seconds'] for row in rows if 'time/seconds' in row][1:]
    return (steps // 4) / np.median(seconds), np.mean(bare)


def data_rate(task, count=200):
  start = time.perf_counter()
  for step in range(count):
    task.batch(step)
  return count / (time.perf_counter() - start)


def build_task(config, workdir):
  return tasks.build(
    **config.task, data=config.data, workdir=workdir, seed=0, shard=(0, 1)
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--steps', type=int, default=80, help='of the loop')
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  cases = {}
  with tempfile.TemporaryDirectory() as workdir:
    task = build_task(config_of('mha'), workdir)
    for variant in VARIANTS:
      cases[variant] = bare_step(config_of(variant), task)
    gemm = protocol.gemm_rate() / 1e9
    figures = protocol.measure(cases, args.rounds, 'steps')
    products = protocol.products(cases, args.rounds)
    batches = data_rate(task)
  print(f'\nmatrix product  {gemm:6.0f} GFLOP/s')
  print(
    f'{"":10}{"ms a step":>10}{"tokens/s":>10}{"GFLOP/s":>10}{"of GEMM":>9}'
    f'{"products":>10}{"of GEMM":>9}{"of limit":>9}'
  )
  for variant, figure in figures.items():
    figure |= products[variant]
    ms, alone, flops = (figure[k] for k in ('ms', 'product_ms', 'flops'))
    tokens, rate = task.units_per_step / ms * 1e3, flops / ms / 1e6
    print(
      f'{variant:10}{ms:10.1f}{tokens:10.0f}{rate:10.1f}{rate / gemm:9.2f}'
      f'{alone:7.1f} ms{flops / alone / 1e6 / gemm:9.2f}{alone / ms:9.2f}'
    )
    figure |= dict(tokens_per_second=tokens, gflops=rate)
  loop, bare = loop_rate(config_of('mha'), args.steps)
  print(
    f'\ntrain.py {loop:.3f} steps/s, bare step {bare:.3f}: {loop / bare:.3f}'
  )
  used = 1e3 / figures['mha']['ms']
  print(
    f'data {batches:.0f} batches/s, {batches / used:.0f} times what is used'
  )
  figures |= dict(
    gemm_gflops=gemm,
    loop=dict(train=loop, bare=bare, share=loop / bare),
    data=dict(batches_per_second=batches, times_used=batches / used),
  )
  if args.save:
    protocol.save('train_step', figures)


if __name__ == '__main__':
  main()
