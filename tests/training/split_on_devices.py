# SPDX-License-Identifier: Apache-2.0
"""Losses of a decoder with dropout on several meshes, and what is gathered.

Run as a program by test_split, with a variant; prints JSON.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from collab import models
from collab.attention.target import Target, lowering_for
from collab.metrics import tokens
from collab.training import optim, sharding, step
from collab.training import state as states
from collab.training.experiment import Experiment

ROWS, T, V = 16, 13, 128
# The first is the one that the others are compared with.
MESHES = dict(
  data=dict(fsdp=1),
  fsdp=dict(fsdp=8, dropout=0.2),
  both=dict(fsdp=2, scan=True, remat='full'),
)


class Task:
  def loss(self, model, params, batch, rngs):
    sums = tokens.of_batch(model, params, batch, rngs)
    return sums['loss'], sums['weight'], {}


def batch(i):
  rng = np.random.default_rng(i)
  ids = rng.integers(0, V, (2, ROWS, T), np.int32)
  weights = rng.integers(0, 3, (ROWS, T)).astype(np.float32)
  return dict(tokens=ids[0], labels=ids[1], weights=weights)


def made(variant, fsdp, dropout=0.2, **fields):
  """An Experiment and its state on all devices."""
  model = models.build(
    'decoder',
    dim=64,
    num_layers=2,
    mlp_dim=128,
    vocab_size=V,
    max_length=T,
    dropout=dropout,
    attention_dropout=dropout / 2,
    attention=dict(name=variant, num_heads=4),
    **fields,
  )
  tx, schedule = optim.build(total_steps=9, lr=0.01, warmup_steps=1)
  mesh = sharding.make_mesh(fsdp)

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    return dict(step=jnp.int32(0), params=params, opt=tx.init(params))

  key = jax.random.key(0)
  shardings = sharding.state_shardings(mesh, jax.eval_shape(init, key))
  state = jax.jit(init, out_shardings=shardings)(key)
  config = ConfigDict(dict(accumulate=2, optim=dict(ema=0.0)))
  found = Experiment(config, '', Task(), model, tx, schedule, mesh)
  return found, states.in_memory(model, state)


def losses(variant, fields):
  run, state = made(variant, **fields)
  one, found = step.build(run, state), []
  for i in range(3):
    rows = sharding.put(batch(i), sharding.batch_sharding(run.mesh))
    state, scalars, _ = one(state, rows, jax.random.key(7))
    found.append(float(scalars['loss']))
  return found


def gathered(variant):
  """Dtypes of all-gathers in the programs for TPU and GPU, in bfloat16."""
  run, state = made(variant, fsdp=8, dtype='bfloat16')
  rows, found = sharding.put(batch(0), sharding.batch_sharding(run.mesh)), {}
  for machine in (Target('tpu'), Target('cuda')):
    with lowering_for(machine):
      traced = step.build(run, state).trace(state, rows, jax.random.key(7))
      lowered = traced.lower(lowering_platforms=(machine.platform,))
    gathers = r'stablehlo\.all_gather.*?-> tensor<[\dx]+x(\w+)>'
    found[machine.platform] = re.findall(gathers, lowered.as_text())
  return found


def main(variant):
  curves = {name: losses(variant, x) for name, x in MESHES.items()}
  print(json.dumps(dict(curves=curves, gathered=gathered(variant))))


if __name__ == '__main__':
  main(*sys.argv[1:])
