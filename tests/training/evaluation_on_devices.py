# SPDX-License-Identifier: Apache-2.0
"""Scores, translations and samples on meshes of all devices, and their FLOPs.

Run as a program by test_evaluation; prints JSON.
"""

import json
import sys
import types

import jax
import numpy as np

from collab import decoding, models, tasks
from collab.metrics import tokens
from collab.runtime import processes
from collab.tasks import wmt14
from collab.training import evaluation, sharding

V, T, ROWS = 128, 13, 16
N = 19  # examples: a whole batch, and one that does not divide
BAD = 13  # the example of which losses and samples are NaN
WORDS = types.SimpleNamespace(vocab_size=V, pad_id=0, bos_id=1, eos_id=2)
FIELDS = dict(
  dim=64,
  mlp_dim=128,
  vocab_size=V,
  max_length=32,
  attention=dict(name='mhe_add', num_heads=4),
)


def parameters(model, mesh):
  """Random parameters on a mesh, with which rows end at any time."""
  rng = np.random.default_rng(5)

  def draw(path, x):
    scale = 0.2 if 'embed' in jax.tree_util.keystr(path) else 0.8
    return rng.normal(x.ndim == 1, scale, x.shape).astype(x.dtype)

  made = jax.tree_util.tree_map_with_path(draw, models.shapes(model))
  rules = sharding.rules(mesh, model, made, '')
  shardings = sharding.state_shardings(mesh, dict(params=made), rules)
  return jax.device_put(made, shardings['params'])


def translator():
  return models.build(
    'encoder_decoder', encoder_layers=1, decoder_layers=1, **FIELDS
  )


def translated():
  """The Pass of beam search over N sentences."""
  rng = np.random.default_rng(0)
  ids = [[*rng.integers(3, V, 3 + i % 5), WORDS.eos_id] for i in range(N)]
  return wmt14.translations(translator(), WORDS, ids, 3, 0.6, ROWS)


def scored():
  """A language model, and the Pass of its losses; a label is none."""
  model = models.build('decoder', num_layers=1, **FIELDS)
  ids = np.random.default_rng(1).integers(0, V, (2, N, T), np.int32)
  ids[1, BAD] = V
  weights = np.random.default_rng(2).integers(0, 3, (N, T)).astype(np.float32)

  def make(at):
    return dict(tokens=ids[0][at], labels=ids[1][at], weights=weights[at])

  return model, tasks.Pass.over(tokens.of_rows, range(N), ROWS, make)


def sampled():
  """The Pass of samples from the same model; a prompt is none."""
  keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), N)))

  def rows(model, params, batch):
    return decoding.sample(
      decoding.step_of(model, params),
      decoding.empty_cache(model, len(batch['prompt']), 9),
      batch['prompt'],
      jax.random.wrap_key_data(batch['keys']),
      eos=2,
      pad=0,
      max_length=9,
      prompt_lengths=batch['lengths'],
      limits=batch['limits'],
    )

  def make(at):
    return dict(
      prompt=np.ones((len(at), 1), np.int32),
      lengths=np.where(at == BAD, 0, 1),
      limits=3 + at % 7,
      keys=keys[at],
    )

  return tasks.Pass.over(rows, range(N), ROWS, make)


def on(mesh):
  """What all Passes give on a mesh, and FLOPs of a device for a batch."""
  found, flops = {}, {}
  language, losses = scored()
  for name, model, computed in (
    ('losses', language, losses),
    ('translations', translator(), translated()),
    ('samples', language, sampled()),
  ):
    params = parameters(model, mesh)
    out = evaluation.over_examples(model, mesh)(params, computed)
    found[name] = jax.tree.map(np.ndarray.tolist, jax.tree.leaves(out))
    rows = sharding.batch_sharding(mesh)
    batch = computed.batch(0)
    del batch['place']
    batch = {
      k: jax.make_array_from_process_local_data(rows, x, x.shape)
      for k, x in batch.items()
    }
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    run = evaluation.program(model, mesh, specs, computed.rows)
    compiled = run.lower(params, batch).compile()
    flops[name] = compiled.cost_analysis()['flops']
  return dict(found=found, flops=flops)


def main(*meshes):
  """Each mesh is 'fsdp' or 'fsdp,tensor'."""
  processes.join()
  made = {x: on(sharding.make_mesh(*map(int, x.split(',')))) for x in meshes}
  print(json.dumps(made))


if __name__ == '__main__':
  main(*sys.argv[1:])
