# SPDX-License-Identifier: Apache-2.0
"""Starts the state of a run: from its newest checkpoint, or initialised.

The state is a dict of `step`, the number of steps done; `params`; `opt`, the
optimiser's state; and `ema`, the moving average of `params`, if the config asks
for one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from collab import models
from collab.runtime import changes, checkpoint
from collab.runtime import workdir as workdirs
from collab.training import init_from, optim, sharding
from collab.training.experiment import Experiment


def start(
  made: Experiment, checkpoints: checkpoint.Checkpoints, eval_only: bool
) -> tuple[int, Any]:
  """Returns (steps done, state) to continue from, on its devices.

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
      whole, meaning = sharding.replicated(made.mesh), made.task.meaning
      params = init_from.load(config.init_from, state['params'], meaning, whole)
      state = jax.device_put(state | dict(params=params), shardings)
      if ema:
        state['ema'] = jax.tree.map(jnp.copy, state['params'])
  rates = lambda steps: optim.build(total_steps=steps, **config.optim)[1]
  workdirs.go_on(config, workdir, step, rates, eval_only)
  return step, state


def params_of(state: dict) -> Any:
  """Returns the parameters to evaluate: their average, if there is one."""
  return state.get('ema', state['params'])
