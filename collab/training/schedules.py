# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules; steps count from 1, so that none has rate 0.

  rate = lr min(step / warmup, 1) f,  f = 1 + (end_lr / lr - 1) p

A schedule in `ENDS` gives p, from 0 to 1 at the last step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

DECAY = 0.2  # share of the steps in which `wsd` decays


def linear(step: jax.Array, warmup: int, total: int) -> jax.Array:
  """(step - warmup) / (total - warmup)."""
  return jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)


def cosine(step: jax.Array, warmup: int, total: int) -> jax.Array:
  """(1 - cos(pi p)) / 2 with the p of `linear`."""
  return (1 - jnp.cos(jnp.pi * linear(step, warmup, total))) / 2


def wsd(step: jax.Array, warmup: int, total: int) -> jax.Array:
  """Warm-up, stable, decay: p is linear in the last fifth, and 0 before.

  arXiv 2404.06395, section 4, and 2405.18392, whose share is a fifth too. Until
  then the rate does not depend on total, so that a run may go on for longer.
  """
  return jnp.clip((step / total - (1 - DECAY)) / DECAY, 0.0, 1.0)


ENDS = dict(linear=linear, cosine=cosine, wsd=wsd)
# inverse_sqrt: f = sqrt(warmup / step) after the warm-up (Attention Is All You
# Need, eq. 3, with lr = (D warmup)^(-1/2); fairseq's with warmup_init_lr = 0).
SCHEDULES = 'inverse_sqrt', *ENDS, 'constant'


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
    warm = step / max(warmup, 1)
    if name == 'inverse_sqrt':
      return lr * jnp.minimum(warm, jnp.sqrt(warmup / step))
    warm = jnp.minimum(warm, 1.0)
    if name == 'constant':
      return lr * warm
    return warm * (lr + (end_lr - lr) * ENDS[name](step, warmup, total))

  return rate
