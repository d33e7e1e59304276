# SPDX-License-Identifier: Apache-2.0
"""Detects steps with NaN or infinity, reports them, and skips their updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from collab.runtime import tree_table


class Health(NamedTuple):
  """The loss and gradient norms of a step; all are finite in a good step.

  Attributes:
    loss: float32 [].
    norm: float32 [], norm of the gradients.
    squares: float32 [leaves], sum of squared gradients in each leaf.
  """

  loss: jax.Array
  norm: jax.Array
  squares: jax.Array


def health(loss: jax.Array, grads: Any) -> Health:
  """Computes the Health of a step, inside jit."""
  leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(grads)]
  squares = jnp.stack([jnp.sum(jnp.square(x)) for x in leaves])
  return Health(loss, jnp.sqrt(squares.sum()), squares)


def unless_finite(health: Health, old: dict, new: dict) -> dict:
  """Returns the state `new` after a good step, else `old` with a new count."""
  good = jnp.isfinite(health.loss) & jnp.isfinite(health.norm)
  kept = jax.tree.map(lambda x, y: jnp.where(good, y, x), old, new)
  return kept | dict(step=new['step'])


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

  Raises:
    ValueError: limit < 0.
  """
  if limit < 0:
    raise ValueError(f'skip_nonfinite={limit}; expected at least 0.')
  names = list(tree_table.named(params))

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
