# SPDX-License-Identifier: Apache-2.0
r"""Measures the memory of an FSDP step: does only one layer exist as a whole?

  ./launch.sh python -m benchmarks.fsdp [--save]

The step is train.py's, compiled for eight simulated devices with fsdp=8: a
decoder of 16 layers x 384, remat=full, one row of 128 tokens a device. Nothing
runs. `temporary` is what XLA plans for temporaries, activations included, as a
share of the float32 parameters; `gathered` and `scattered` are the collectives
of the program. XLA's CPU backend undoes remat in an unrolled program: it drops
the barriers, finds the second gathers to be like the first, and gathers all
layers at the start. The flags of `in order` tell it not to. The last two cases
compare the time to compile more layers.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import time

DEVICES, LAYERS, D, T = 8, 16, 384, 128
IN_ORDER = (
  '--xla_cpu_enable_concurrency_optimized_scheduler=false '
  '--xla_disable_hlo_passes=all-reduce-combiner,cpu-all-reduce-combiner,cse'
)
CASES = {  # scan, layers, flags
  'scan': (True, LAYERS, ''),
  'loop': (False, LAYERS, ''),
  'loop, in order': (False, LAYERS, IN_ORDER),
  'scan, 24 layers': (True, 24, ''),
  'loop, 24 layers': (False, 24, ''),
}


def compiled(
  scan: bool,
  layers: int = LAYERS,
  dim: int = D,
  length: int = T,
  num_heads: int = 4,
  vocab_size: int = 128,
) -> tuple:
  """Compiles train.py's step with fsdp = all devices of this process.

  Returns:
    The jax.stages.Compiled, bytes of the float32 parameters, and seconds.
  """
  import jax
  import jax.numpy as jnp
  from ml_collections import ConfigDict

  from collab import accounting, models
  from collab.metrics import tokens
  from collab.models import stacked
  from collab.training import optim, sharding, step
  from collab.training import state as states
  from collab.training.experiment import Experiment

  model = models.build(
    'decoder',
    dim=dim,
    num_layers=layers,
    mlp_dim=4 * dim,
    vocab_size=vocab_size,
    max_length=length,
    scan=scan,
    remat='full',
    attention=dict(name='mha', num_heads=num_heads),
  )
  mesh = sharding.make_mesh(fsdp=jax.device_count())
  tx, schedule = optim.build(total_steps=9, lr=1e-3, warmup_steps=1)

  class Task:
    def loss(self, model, params, batch, rngs):
      sums = tokens.of_batch(model, params, batch, rngs)
      return sums['loss'], sums['weight'], {}

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    return dict(step=jnp.int32(0), params=params, opt=tx.init(params))

  shapes = jax.eval_shape(init, jax.random.key(0))
  shardings = sharding.state_shardings(mesh, shapes)
  if scan:
    shapes = jax.eval_shape(stacked.stack, shapes)
    join = lambda layers: states.sharding_of_stack(layers[0])
    shardings = stacked.stack(shardings, join)
  state = jax.tree.map(lambda x, s: x.update(sharding=s), shapes, shardings)
  config = ConfigDict(dict(accumulate=1, optim=dict(ema=0.0)))
  made = Experiment(config, '', Task(), model, tx, schedule, mesh)
  rows = sharding.batch_sharding(mesh)
  ids = jax.ShapeDtypeStruct(
    (jax.device_count(), length), jnp.int32, sharding=rows
  )
  weights = ids.update(dtype=jnp.float32)
  batch = dict(tokens=ids, labels=ids, weights=weights)
  key = jax.eval_shape(lambda: jax.random.key(0))
  lowered = step.build(made, state).lower(state, batch, key)
  start = time.perf_counter()
  program = lowered.compile()
  seconds = time.perf_counter() - start
  return program, 4 * accounting.size(shapes['params']), seconds


def case(scan: bool, layers: int) -> dict[str, float]:
  """Measures the step on the devices of this process."""
  from benchmarks import collectives

  program, size, seconds = compiled(scan, layers)
  kinds = collections.Counter(
    kind for kind, *_ in collectives.of_program(program.as_text())
  )
  return dict(
    temporary=program.memory_analysis().temp_size_in_bytes / size,
    gathered=kinds['all-gather'],
    scattered=kinds['reduce-scatter'],
    compile_s=seconds,
  )


def measured(name: str) -> dict[str, float]:
  """Runs `case` as a process with its own devices and flags."""
  scan, layers, flags = CASES[name]
  given = re.sub(r'--xla_backend\S+', '', os.environ.get('XLA_FLAGS', ''))
  devices = f'--xla_force_host_platform_device_count={DEVICES}'
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.fsdp', f'--case={int(scan)},{layers}'],
    env=os.environ
    | dict(XLA_FLAGS=f'{given} {devices} {flags}', JAX_PLATFORMS='cpu'),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.partition('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--save', action='store_true', help='keeps the results')
  parser.add_argument('--case', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.case is not None:
    scan, layers = map(int, args.case.split(','))
    print(json.dumps(case(bool(scan), layers)))
    return
  found = {name: measured(name) for name in CASES}
  print(f'{"":16}temporary  gathered  scattered  compiled')
  for name, x in found.items():
    print(
      f'{name:16}{x["temporary"]:7.2f} P  {x["gathered"]:8}  '
      f'{x["scattered"]:9}  {x["compile_s"]:6.1f} s'
    )
  if args.save:
    from benchmarks import protocol

    protocol.save('fsdp', found)


if __name__ == '__main__':
  main()
