# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism: training on several meshes, and what it sends.

Run as a program by test_tensor, with a case and what to print, as JSON.
"""

import json
import pathlib
import re
import sys

import jax
from jax._src.cudnn import fused_attention_stablehlo as private
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks.collectives import of_program
from collab import attention, models
from collab.attention.target import Target, lowering_for
from collab.metrics import tokens
from collab.model_json import Meaning
from collab.runtime import checkpoint, tree_table, workdir
from collab.training import init_from, optim, sharding, step
from collab.training.experiment import Experiment
from tests.attention.variants import NAMES
from tests.training.test_init_from import make_config

ROWS, T, V, D, H, STEPS = 8, 14, 96, 64, 8, 12
# Axes data, fsdp, tensor. The first is what the others are compared with.
MESHES = {
  'one': (1, 1, 1),
  'tensor=2': (2, 1, 2),
  'tensor=4': (1, 1, 4),
  'fsdp=2, tensor=2': (2, 2, 2),
}
# What a checkpoint is written and read on.
SAVED = {
  'one': (1, 1, 1),
  'fsdp=8': (1, 8, 1),
  'fsdp=2, tensor=2': (1, 2, 2),
}
# Devices of `tensor`, and tokens of a row, of what is counted.
LAYOUTS = ((2, T), (4, 4 * T))
CASES = {name: {} for name in NAMES} | dict(
  gqa=dict(kv_heads=4),
  gqa_few=dict(name='gqa', kv_heads=2),  # fewer than tensor=4
  collab=dict(shared_dim=24),
  mla=dict(latent_dim=8),
  mla_wide=dict(name='mla', latent_dim=24),
  gla=dict(latent_dim=8),
  gla_wide=dict(name='gla', latent_dim=24),
  gta=dict(kv_heads=4),
  gta_few=dict(name='gta', kv_heads=2),
  skv_few=dict(name='skv', kv_heads=2),
  mfa=dict(query_dim=8),
  mfa_kr=dict(query_dim=8, head_width=12),
  linformer=dict(length=4 * T, projected_length=5),
)
# Models are decoders, but for what needs to see all tokens.
ENCODER = dict(head='mlm', types=0, pooler=False)


class Task:
  def loss(self, model, params, batch, rngs):
    sums = tokens.of_batch(model, params, batch, rngs, label_smoothing=0.1)
    return sums['loss'], sums['weight'], {}


def mesh_of(shape):
  n = np.prod(shape)
  auto = (jax.sharding.AxisType.Auto,) * 3
  return jax.make_mesh(
    shape, sharding.AXES, devices=jax.devices()[:n], axis_types=auto
  )


def batch(i, length=T):
  rng = np.random.default_rng(i)
  ids = rng.integers(0, V, (2, ROWS, length), np.int32)
  weights = rng.integers(0, 3, (ROWS, length)).astype(np.float32)
  of_encoder = dict(
    lengths=np.full(ROWS, length, np.int32),
    positions=np.tile(np.arange(length, dtype=np.int32), (ROWS, 1)),
  )
  return dict(tokens=ids[0], labels=ids[1], weights=weights) | of_encoder


def made(case, mesh, layers=1, dropout=0.2, accumulate=2, **fields):
  """An Experiment, and its first state on a mesh."""
  if case == 'linformer':
    fields = dict(name='encoder') | ENCODER | fields
  model = models.build(
    **dict(name='decoder') | fields,
    dim=D,
    num_layers=layers,
    mlp_dim=2 * D,
    vocab_size=V,
    max_length=8 * T,
    dropout=dropout,
    activation_dropout=dropout,
    attention_dropout=dropout / 2,
    attention=dict(name=case, num_heads=H) | CASES[case],
  )
  # A learning rate at which losses of float32 stay together for 12 steps.
  tx, schedule = optim.build(
    total_steps=2 * STEPS, lr=2e-3, warmup_steps=1, clip=1.0
  )

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    return dict(step=jnp.int32(0), params=params, opt=tx.init(params))

  key = jax.random.key(0)
  shapes = jax.eval_shape(init, key)
  rules = sharding.rules(mesh, model, shapes['params'], '')
  shardings = sharding.state_shardings(mesh, shapes, rules)
  state = jax.jit(init, out_shardings=shardings)(key)
  config = ConfigDict(dict(accumulate=accumulate, optim=dict(ema=0.0)))
  return Experiment(config, '', Task(), model, tx, schedule, mesh), state


def losses(case, mesh):
  run, state = made(case, mesh)
  one, found = step.build(run, state), []
  for i in range(STEPS):
    rows = sharding.put(batch(i), sharding.batch_sharding(mesh))
    state, scalars, _ = one(state, rows, jax.random.key(7))
    found.append(float(scalars['loss']))
  return found


def curves(case, *names):
  return {name: losses(case, mesh_of(MESHES[name])) for name in names}


def sent(case, mesh, layers, length):
  """(kind, bytes) of the collectives of a compiled step."""
  run, state = made(case, mesh, layers, dropout=0.0, accumulate=1)
  rows = sharding.put(batch(0, length), sharding.batch_sharding(mesh))
  lowered = step.build(run, state).lower(state, rows, jax.random.key(7))
  found = of_program(lowered.compile().as_text())
  return [(kind, size) for kind, size, _ in found]


def collectives(case):
  """What one layer sends, what all else sends, and how, by [tensor, tokens]."""
  found = []
  for n, length in LAYOUTS:
    mesh = mesh_of((1, 1, n))
    one, two = (sent(case, mesh, layers, length) for layers in (1, 2))
    one_, two_ = (sum(size for _, size in x) for x in (one, two))
    kinds = sorted({kind for kind, _ in two})
    found.append([two_ - one_, 2 * one_ - two_, kinds])
  return found


def moved(folder):
  """Checksums of a state: trained on one mesh, restored on the others."""
  found = {}
  for name, shape in SAVED.items():
    run, state = made('gqa_few', mesh_of(shape), accumulate=1)
    one = step.build(run, state)
    rows = sharding.put(batch(0), sharding.batch_sharding(run.mesh))
    state, *_ = one(state, rows, jax.random.key(7))
    saved = checkpoint.Checkpoints(pathlib.Path(folder) / name, keep=1)
    saved.save(1, state)
    saved.close()
    kernel = state['params']['decoder']['layer_0']['mlp_in']['kernel']
    found[name] = dict(
      saved=tree_table.checksums(state), spec=list(kernel.sharding.spec)
    )
    for other, shape in SAVED.items():
      _, fresh = made('gqa_few', mesh_of(shape))
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        fresh,
      )
      opened = checkpoint.Checkpoints(pathlib.Path(folder) / name, keep=1)
      _, restored = opened.restore(abstract)
      opened.close()
      placed = jax.tree.map(
        lambda x, a: x.sharding == a.sharding, restored, abstract
      )
      assert all(jax.tree.leaves(placed))
      found[name][other] = tree_table.checksums(restored)
  return found


def begun(folder):
  """How init_from on one mesh places the parameters of a run on another."""
  _, state = made('gqa_few', mesh_of(SAVED['fsdp=8']))
  workdir.claim(make_config(**{'checkpoint.best': ''}), folder)
  saved = checkpoint.Checkpoints(folder, keep=1)
  saved.save(1, dict(params=state['params']))
  saved.close()
  mesh = mesh_of(SAVED['fsdp=2, tensor=2'])
  _, state = made('gqa_few', mesh)
  fresh = jax.tree.map(lambda x: x + 1, state['params'])
  got = init_from.load(folder, fresh, Meaning(), mesh)
  placed = jax.tree.map(lambda x, a: x.sharding == a.sharding, got, fresh)
  return dict(
    placed=all(jax.tree.leaves(placed)),
    kernel=list(got['decoder']['layer_0']['mlp_in']['kernel'].sharding.spec),
    same=tree_table.checksums(got) == tree_table.checksums(state['params']),
  )


def fused(case):
  """{platform: shapes of queries in a device's calls of splash or cuDNN}."""
  # The probes of a GPU, where there is none.
  private.check_cudnn_version = lambda: 91002
  private.check_compute_capability = lambda capability: True
  found, calls = (
    {},
    r'@(?:tpu_custom_call|__cudnn\$fmhaSoftmax)\(.*?\((.*?)\) ->',
  )
  run, state = made(case, mesh_of((2, 2, 2)), dropout=0.0, dtype='bfloat16')
  rows = sharding.put(batch(0, 8 * T), sharding.batch_sharding(run.mesh))
  for machine in (Target('tpu'), Target('cuda', (9, 0), 91002)):
    with lowering_for(machine):
      traced = step.build(run, state).trace(state, rows, jax.random.key(7))
      text = traced.lower(lowering_platforms=(machine.platform,)).as_text()
    shapes = [
      re.findall(r'<([\dx]+)xbf16>', x)[0] for x in re.findall(calls, text)
    ]
    found[machine.platform] = sorted(set(shapes))
  return found


def head_dropout(case):
  """An attention whose heads drop weights of their own, on one and four."""
  fields = dict(name=case, num_heads=H) | CASES[case]
  layer = attention.build(**fields, dropout_rate=0.3, broadcast_dropout=False)
  x = jax.random.normal(jax.random.key(0), (ROWS, T, D))
  params = layer.init(jax.random.key(1), x, deterministic=True)
  spec, mesh = jax.sharding.PartitionSpec, mesh_of((2, 1, 4))

  def split(x):
    at = x.shape.index(H) if H in x.shape else 0
    names = [None] * at + (['tensor'] if H in x.shape else [])
    return jax.device_put(x, jax.NamedSharding(mesh, spec(*names)))

  def run(params, x):
    rngs = dict(dropout=jax.random.key(2))
    return layer.apply(params, x, deterministic=False, rngs=rngs)

  on = jax.shard_map(
    run,
    mesh=mesh,
    axis_names={'data', 'fsdp'},
    in_specs=(spec(), spec(('data', 'fsdp'))),
    out_specs=spec(('data', 'fsdp')),
    check_vma=False,
  )
  got, want = jax.device_get(
    (jax.jit(on)(jax.tree.map(split, params), x), jax.jit(run)(params, x))
  )
  return float(np.abs(got - want).max())


def main(what, *arguments):
  print(json.dumps(globals()[what](*arguments)))


if __name__ == '__main__':
  main(*sys.argv[1:])
