# SPDX-License-Identifier: Apache-2.0
"""Detects steps with NaN or infinity, reports them, and skips their updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from collab.models import stacked
from collab.runtime import tree_table


class Health(NamedTuple):
  """The loss and gradient norms of a step; all are finite in a good step.

  Attributes:
    loss: float32 [].
    norm: float32 [], norm of the gradients.
    squares: float32 [leaves], sum of squared gradients in each leaf, in the
      order of `_names`.
  """

  loss: jax.Array
  norm: jax.Array
  squares: jax.Array


def health(loss: jax.Array, grads: Any) -> Health:
  """Computes the Health of a step, inside jit."""

  def one(path, x):
    axes = range(stacked.is_stacked(path), x.ndim)
    return jnp.sum(jnp.square(x.astype(jnp.float32)), tuple(axes)).ravel()

  squares = jax.tree_util.tree_map_with_path(one, grads)
  squares = jnp.concatenate(jax.tree.leaves(squares))
  return Health(loss, jnp.sqrt(squares.sum()), squares)


def update_if_finite(
  health: Health, update: Callable, state: dict, grads: Any
) -> dict:
  """Returns update(state, grads) after a good step, else `state`; both count.

  It is a branch, because XLA then updates the state in place. To choose between
  an old and a new state costs copies of the old one.
  """
  good = jnp.isfinite(health.loss) & jnp.isfinite(health.norm)
  step = state['step'] + 1
  new = jax.lax.cond(good, update, lambda state, _: state, state, grads)
  return new | dict(step=step)


def watch(
  limit: int, params: Any, rows: Callable, workdir: str
) -> Callable[[list[Health], int, int], None]:
  """Makes a function that checks steps, and stops the run at too many bad ones.

  Args:
    limit: number of steps that the whole run may skip.
    params: a tree with the names of the gradients.
    rows: function step -> the training examples of its batch, from 0.
    workdir: workdir of the run, for the message.

  Returns:
    check(seen, step, skipped). `seen` are the Healths, on the host, of the last
    steps up to `step`. `skipped` is the number of steps that the run has
    skipped so far. check logs each bad step, and raises FloatingPointError if
    more than `limit` were skipped.
  """
  names = _names(params)

  def check(seen, step, skipped):
    first = step - len(seen)  # steps done before these
    bad = [i for i, x in enumerate(seen) if not np.isfinite(x[:2]).all()]
    for count, i in enumerate(bad, skipped - len(bad) + 1):
      told = _told(seen[i], first + i, names, rows)
      if count > limit:
        raise FloatingPointError(
          f'{told} It is one too many for skip_nonfinite={limit}; the '
          f'checkpoints in {workdir} are from before it.'
        )
      logging.warning('%s It is skipped, %d of %d.', told, count, limit)

  return check


def _names(params):
  """Names the leaves of gradients; of stacked layers each layer's."""
  found, layers = [], f'/{stacked.LAYERS}/'
  for name, x in tree_table.named(params).items():
    n = len(x) if layers in name else 1
    found += [name.replace(layers, f'/layer_{i}/') for i in range(n)]
  return found


def _told(health, index, names, rows):
  """Says what was not finite in step index + 1, and in which examples."""
  squares = zip(names, health.squares, strict=True)
  parts = [name for name, x in squares if not np.isfinite(x)]
  where = tree_table.join_names(parts) or 'no part alone'
  if len(parts) == len(names):
    where = 'all parts'
  return (
    f'At step {index + 1} the loss is {health.loss} and the gradient has the '
    f'norm {health.norm}, not finite in {where}; the batch has the examples '
    f'{tree_table.join_names(rows(index), most=64)}.'
  )
