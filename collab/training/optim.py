# SPDX-License-Identifier: Apache-2.0
"""Builds the optimiser and its learning-rate schedule from a config.

A new optimiser is a function in `OPTIMIZERS`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from collab.models import parameters
from collab.training import schedules


def adam(
  rate: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
  """Adam (1412.6980), which has no weight decay."""
  return optax.adam(rate, b1, b2, eps)


def adamw(
  rate: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay (1711.05101)."""
  return optax.adamw(
    rate, b1, b2, eps, weight_decay=weight_decay, mask=parameters.decays
  )


def muon(
  rate: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
  """Muon (Jordan et al., 2024) for matrices, Adam for the other parameters.

  Muon's updates are scaled to the size of Adam's (arXiv 2502.16982), so that lr
  has the same meaning. Adam uses Nesterov's momentum here.
  """
  return optax.contrib.muon(
    rate,
    eps=eps,
    weight_decay=weight_decay,
    weight_decay_mask=parameters.decays,
    adam_b1=b1,
    adam_b2=b2,
    adam_weight_decay=weight_decay,
    muon_weight_dimension_numbers=parameters.matrices,
    consistent_rms=0.2,
  )


OPTIMIZERS = dict(adam=adam, adamw=adamw, muon=muon)


def build(
  *,
  total_steps: int,
  name: str = 'adamw',
  lr: float = 1e-3,
  schedule: str = 'cosine',
  warmup_steps: int = 0,
  end_lr: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip: float = 0.0,
  ema: float = 0.0,
  layer_decay: float = 1.0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimiser of config.optim, and its learning-rate function.

  Args:
    total_steps: step at which the schedules in `schedules.ENDS` reach `end_lr`.
    name: one of `OPTIMIZERS`.
    lr: peak learning rate.
    schedule: one of `schedules.SCHEDULES`.
    warmup_steps: steps of linear growth from lr / warmup_steps to lr.
    end_lr: final rate of these schedules.
    b1, b2, eps: parameters of Adam.
    weight_decay: times lr; for matrices only, see `parameters.decays`.
    clip: maximum global norm of the gradients, 0 for none.
    ema: decay of the parameters' average, by `ema_update`; 0 for none.
    layer_decay: decay of the learning rate from layer to layer, see
      `parameters.layer_rates`.

  Returns:
    An optax.GradientTransformation, and a function count -> learning rate of
    the update after `count` updates.

  Raises:
    ValueError: a value is out of range, or `name` or `schedule` ignores it.
  """
  if name not in OPTIMIZERS:
    raise ValueError(f'optim.name={name!r}; there are {", ".join(OPTIMIZERS)}.')
  if name == 'adam' and weight_decay:
    raise ValueError(
      f'optim.weight_decay={weight_decay}, but optim.name={name!r}; only adamw '
      'and muon decay.'
    )
  _check(math.inf, lr=lr, warmup_steps=warmup_steps, end_lr=end_lr)
  _check(math.inf, eps=eps, weight_decay=weight_decay, clip=clip)
  _check(1, b1=b1, b2=b2, ema=ema)
  if not 0 < layer_decay <= 1:
    raise ValueError(
      f'optim.layer_decay={layer_decay}; expected above 0, at most 1.'
    )
  rate = schedules.build(schedule, lr, warmup_steps, total_steps, end_lr)
  tx = OPTIMIZERS[name](rate, b1, b2, eps, weight_decay)
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  parts.append(tx)
  if layer_decay < 1:
    parts.append(optax.stateless(functools.partial(_by_layer, layer_decay)))
  return optax.chain(*parts) if len(parts) > 1 else tx, rate


def _check(end, **values):
  for field, value in values.items():
    if not 0 <= value < end:
      raise ValueError(
        f'optim.{field}={value}; expected at least 0, below {end}.'
      )


def _by_layer(decay, updates, params):
  rates = parameters.layer_rates(updates, decay)
  return jax.tree.map(jnp.multiply, updates, rates)


def ema_update(ema: Any, params: Any, decay: float) -> Any:
  """Computes decay ema + (1 - decay) params."""
  return optax.incremental_update(params, ema, 1 - decay)


def updates(opt: Any) -> jax.Array:
  """Returns an optimiser's number of updates from its state: int32 []."""
  return optax.tree.get_all_with_path(opt, 'count')[0][1]
