# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: functions of (step, lr, warmup, total, end_lr).

Steps count from 1, so that the first update is not zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

DECAY = 0.2  # share of the steps in which `wsd` decays


def _warm(step, warmup):
  return jnp.minimum(step / max(warmup, 1), 1.0)


def constant(
  step: jax.Array, lr: float, warmup: int, total: int, end_lr: float
) -> jax.Array:
  """lr min(step / warmup, 1)."""
  return lr * _warm(step, warmup)


def inverse_sqrt(
  step: jax.Array, lr: float, warmup: int, total: int, end_lr: float
) -> jax.Array:
  """lr min(step / warmup, sqrt(warmup / step)).

  Attention Is All You Need, eq. 3, with lr = (D warmup)^(-1/2); fairseq's
  inverse_sqrt with warmup_init_lr = 0.
  """
  return lr * jnp.minimum(step / warmup, jnp.sqrt(warmup / step))


def linear(
  step: jax.Array, lr: float, warmup: int, total: int, end_lr: float
) -> jax.Array:
  """lr step / warmup, then lr (1 - p) + end_lr p; p from 0 to 1 at total."""
  p = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
  return _warm(step, warmup) * (lr + (end_lr - lr) * p)


def cosine(
  step: jax.Array, lr: float, warmup: int, total: int, end_lr: float
) -> jax.Array:
  """As `linear`, with (1 - cos(pi p)) / 2 for p."""
  p = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
  p = (1 - jnp.cos(jnp.pi * p)) / 2
  return _warm(step, warmup) * (lr + (end_lr - lr) * p)


def wsd(
  step: jax.Array, lr: float, warmup: int, total: int, end_lr: float
) -> jax.Array:
  """Warm-up, stable, decay: `linear` whose p grows in the last fifth alone.

  arXiv 2404.06395, section 4, and 2405.18392, whose share is a fifth too. Until
  then the rate does not depend on total, so that a run may go on for longer.
  """
  p = jnp.clip((step / total - (1 - DECAY)) / DECAY, 0.0, 1.0)
  return _warm(step, warmup) * (lr + (end_lr - lr) * p)


SCHEDULES = {
  f.__name__: f for f in (inverse_sqrt, linear, cosine, wsd, constant)
}
ENDS = 'linear', 'cosine', 'wsd'


def build(
  name: str, lr: float, warmup: int, total: int, end_lr: float
) -> Callable:
  """Makes a function count -> rate of the update that follows `count` updates.

  Raises:
    ValueError: a value is out of range, or the schedule ignores it.
  """
  if name not in SCHEDULES:
    legal = ', '.join(SCHEDULES)
    raise ValueError(f'optim.schedule={name!r}; there are {legal}.')
  ends = name in ENDS
  if ends and warmup >= total:
    raise ValueError(
      f'optim.warmup_steps={warmup} leaves none of total_steps={total} for the '
      f'{name} decay.'
    )
  if end_lr and not ends:
    raise ValueError(
      f'optim.end_lr={end_lr}, but optim.schedule={name!r}; only '
      f'{", ".join(ENDS)} end.'
    )
  if name == 'inverse_sqrt' and not warmup:
    raise ValueError('optim.warmup_steps=0; inverse_sqrt needs at least 1.')

  def rate(count):
    step = jnp.asarray(count, jnp.float32) + 1
    return SCHEDULES[name](step, lr, warmup, total, end_lr)

  return rate
