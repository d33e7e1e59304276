# SPDX-License-Identifier: Apache-2.0
"""The training step: loss, gradients and update, as one compiled program."""

from collections.abc import Callable
import time
from typing import Any

import jax
from jax import monitoring
import optax

from collab.models import split
from collab.runtime import xla_flags
from collab.training import gradients, logs, nonfinite, optim, sharding
from collab.training.experiment import Experiment


def build(made: Experiment, state: Any) -> Callable:
  """Makes the training step, for a state and batches on the mesh.

  Args:
    made: Experiment with the loss and the optimiser.
    state: state of state.start; later states have the same sharding.

  Returns:
    A jitted `function` of the state's sharding. It donates the given state.
  """
  shardings, whole = _shardings(state), sharding.replicated(made.mesh)
  return jax.jit(
    function(made, state),
    donate_argnums=0,
    out_shardings=(shardings, whole, whole),
    compiler_options=xla_flags.preset(jax.default_backend()),
  )


def function(made: Experiment, state: Any) -> Callable:
  """Makes the training step as a function that is not compiled.

  Args:
    made, state: as in `build`.

  Returns:
    A function (state, batch, key) -> state, dict of scalars for the log, and
    Health.
  """
  config, tx = made.config, made.tx

  def loss(params, batch, key):
    params = split.gather_outside(params, made.model)
    rngs = dict(dropout=key)
    total, weight, aux = made.task.loss(made.model, params, batch, rngs)
    return total, (weight, aux)

  def update(state, grads):
    updates, opt = tx.update(grads, state['opt'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    new = state | dict(params=params, opt=opt)
    if decay := config.optim.ema:
      new['ema'] = optim.ema_update(state['ema'], params, decay)
    return new

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state['step'])
    (mean, (weight, aux)), grads = value_and_grad(state['params'], batch, key)
    health = nonfinite.health(mean, grads)
    new = nonfinite.update_if_finite(health, update, state, grads)
    scalars = dict(
      loss=mean,
      lr=made.schedule(optim.updates(state['opt'])),
      gradient_norm=health.norm,
      skipped=new['step'] - optim.updates(new['opt']),
      weight=weight,
      **{name: value / weight for name, value in aux.items()},
    )
    return new, scalars, health

  specs = jax.tree.map(lambda x: x.spec, _shardings(state['params']))
  value_and_grad = gradients.accumulate(
    loss, made.mesh, specs, config.accumulate
  )
  return train_step


def _shardings(tree):
  return jax.tree.map(lambda x: x.sharding, tree)


def compiled(step: Callable, *arguments: Any) -> Callable:
  """Compiles a step for its arguments; prints how long it took.

  It also prints whether the program came from the folder in which JAX keeps
  compiled ones, or is kept there for the next start.
  """
  start = time.monotonic()
  lowered = step.lower(*arguments)
  told = dict(traced=f'in {time.monotonic() - start:.3g} s')
  events, start = set(), time.monotonic()
  note = lambda event, **_: events.add(event.rpartition('/')[2])
  monitoring.register_event_listener(note)
  try:
    program = lowered.compile()
  finally:
    monitoring.unregister_event_listener(note)
  took = f'in {time.monotonic() - start:.3g} s'
  folder = jax.config.jax_compilation_cache_dir
  if 'cache_hits' in events:
    told['read'] = f'{took} from {folder}, compiled before'
  else:
    kept = f'kept in {folder}' if 'cache_misses' in events else 'not kept'
    told['compiled'] = f'{took}, {kept}'
  logs.summary('the program of a training step', told)
  return program
