# SPDX-License-Identifier: Apache-2.0
"""Starts the state of a run: from its newest checkpoint, or initialised.

The state is a dict of `step`, the number of steps done; `params`; `opt`, the
optimiser's state; and `ema`, the moving average of `params`, if the config asks
for one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from collab import models
from collab.models import stacked
from collab.runtime import changes, checkpoint
from collab.runtime import workdir as workdirs
from collab.training import init_from, optim, sharding
from collab.training.experiment import Experiment


def start(
  made: Experiment, checkpoints: checkpoint.Checkpoints, eval_only: bool
) -> tuple[int, Any, Any]:
  """Returns what to continue from, on its devices.

  Returns:
    The number of steps done, the state in memory (see `in_memory`; with
    eval_only as on disk), and the
    ShapeDtypeStructs of the state on disk, with shardings.

  Raises:
    ValueError: the workdir belongs to other data, another model or other
      learning rates; or there is nothing to evaluate.
  """
  config, workdir, model = made.config, made.workdir, made.model
  ema = config.optim.ema

  def init(key):
    params = model.init(key, models.zeros(model.example()))['params']
    state = dict(step=jnp.int32(0), params=params, opt=made.tx.init(params))
    return state | (dict(ema=params) if ema else {})

  # The key is an argument, so that a program is compiled once for all seeds.
  key, _ = jax.random.split(jax.random.key(config.seed))
  shapes = jax.eval_shape(init, key)
  rules = sharding.rules(made.mesh, model, shapes['params'], config.rules)
  shardings = sharding.state_shardings(made.mesh, shapes, rules)
  abstract = jax.tree.map(lambda x, s: x.update(sharding=s), shapes, shardings)
  changes.check_data(workdir, made.task, workdirs.read(workdir)['first_steps'])
  step, state = checkpoints.restore(abstract) or (0, None)
  if state is None:
    if eval_only:
      raise ValueError(f'{workdir} has no checkpoint to evaluate.')
    workdirs.begin(workdir)
    state = jax.jit(init, out_shardings=shardings)(key)
    if config.init_from:
      init_from.check(config.init_from, model)
      params = init_from.load(
        config.init_from,
        state['params'],
        made.task.meaning,
        made.mesh,
      )
      state = jax.device_put(state | dict(params=params), shardings)
      if ema:
        state['ema'] = jax.tree.map(jnp.copy, state['params'])
  rates = lambda steps: optim.build(total_steps=steps, **config.optim)[1]
  workdirs.go_on(config, workdir, step, rates, eval_only)
  return step, state if eval_only else in_memory(model, state), abstract


def in_memory(model: models.Model, state: Any) -> Any:
  """Returns a state on disk as the step takes it: with `scan`, stacked.

  Each device stacks its own parts, one leaf after another.
  """
  return stacked.stack(state, _join) if getattr(model, 'scan', False) else state


def sharding_of_stack(sharding: NamedSharding) -> NamedSharding:
  """Returns the sharding of stacked layers from that of one; none is moved."""
  return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _join(layers):
  whole = sharding_of_stack(layers[0].sharding)
  return jax.jit(_stack, out_shardings=whole)(layers)


def _stack(layers):
  return jnp.stack(layers)


def on_disk(state: Any, abstract: Any) -> Any:
  """Inverts `in_memory`, for a state or a part of it.

  Args:
    state: in memory.
    abstract: the same part of what `start` returns, for the shardings.
  """
  if jax.tree.structure(state) == jax.tree.structure(abstract):
    return state
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  return jax.jit(stacked.unstack, out_shardings=shardings)(state)


def params_of(state: dict, abstract: Any) -> Any:
  """Returns the parameters to evaluate: their average, if there is one."""
  name = 'ema' if 'ema' in state else 'params'
  return on_disk(state[name], abstract[name])
