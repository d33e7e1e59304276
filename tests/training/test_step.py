# SPDX-License-Identifier: Apache-2.0
"""The step as a program: its kernels on a GPU, and where it is kept."""

import types

import jax
from jax import ShapeDtypeStruct as Shape
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import pytest

from benchmarks import kernels
from collab import models
from collab.attention.target import lowering_for
from collab.metrics import tokens
from collab.training import optim, sharding
from collab.training import step as steps
from collab.training.experiment import Experiment
from configs import lm

ROWS, T = 4, 128


def loss(model, params, batch, rngs):
  sums = tokens.of_batch(model, params, batch, rngs)
  return sums['loss'], sums['weight'], dict(accuracy=sums['right'])


def lowered(platform):
  """The step of lm.py in bfloat16, but narrow, as text."""
  c = lm.get_config()
  c.model.update(dim=192, num_layers=1, mlp_dim=64, dtype='bfloat16')
  c.model.attention.num_heads = 3  # of 64
  model = models.build(**c.model.to_dict(), vocab_size=64)
  tx, schedule = optim.build(total_steps=c.total_steps, **c.optim)
  mesh, task = sharding.make_mesh(), types.SimpleNamespace(loss=loss)
  made = Experiment(c, '', task, model, tx, schedule, mesh)

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    return dict(step=jnp.int32(0), params=params, opt=tx.init(params))

  key, whole = jax.random.key(0), sharding.replicated(mesh)
  state = jax.tree.map(
    lambda x: x.update(sharding=whole), jax.eval_shape(init, key)
  )
  ids, weights = (Shape((ROWS, T), x) for x in (jnp.int32, jnp.float32))
  batch = dict(tokens=ids, labels=ids, weights=weights)
  machine = kernels.MACHINES[platform]
  with lowering_for(machine), kernels.gpu_at_hand():
    traced = steps.build(made, state).trace(state, batch, key)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_attention_in_bfloat16_is_fused_on_a_gpu():
  text = lowered('cuda')
  for name in ('__cudnn$fmhaSoftmax', '__cudnn$fmhaSoftmaxBackward'):
    assert text.count(f'@{name}(') == 1
  assert f'{T}x{T}x' not in text  # no scores of a head


@pytest.fixture
def folder(tmp_path):
  """Where JAX keeps programs, quick ones as well."""
  names = dict(
    jax_compilation_cache_dir=str(tmp_path),
    jax_persistent_cache_min_compile_time_secs=0.0,
  )
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in names.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield tmp_path
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def compiled():
  """What is computed by a new step each time, the same program."""
  step = jax.jit(lambda state, x: (state + 1, state * x))
  return steps.compiled(step, jnp.int32(3), jnp.int32(5))


def test_compiled_says_where_the_program_is_from(folder, capsys):
  assert compiled()(jnp.int32(7), jnp.int32(11)) == (8, 77)
  title, traced, made = capsys.readouterr().out.splitlines()
  assert title == 'the program of a training step'
  assert traced.startswith('  traced    in 0.')
  assert made.startswith('  compiled  in ')
  assert made.endswith(f' s, kept in {folder}')
  assert compiled()(jnp.int32(7), jnp.int32(11)) == (8, 77)
  *_, read = capsys.readouterr().out.splitlines()
  assert read.startswith('  read    in ')
  assert read.endswith(f' s from {folder}, compiled before')


def test_compiled_too_quickly_to_be_kept(folder, capsys):
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 99.0)
  compiled()
  assert capsys.readouterr().out.endswith(' s, not kept\n')
  assert not list(folder.glob('*-cache'))
