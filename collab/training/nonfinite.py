# SPDX-License-Identifier: Apache-2.0
"""Numbers that are none: found, told, and kept out of the state."""

from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from collab.runtime import tree_table


class Health(NamedTuple):
  """What is finite in a good step.

  Attributes:
    loss: float32 [].
    norm: float32 [], of the gradients.
    squares: float32 [leaves], of the gradients, summed over each leaf.
  """

  loss: jax.Array
  norm: jax.Array
  squares: jax.Array


def health(loss, grads):
  """Of a step, within the compiled program."""
  squares = [
    jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(grads)
  ]
  squares = jnp.stack(squares)
  return Health(loss, jnp.sqrt(squares.sum()), squares)


def unless_finite(health, old, new):
  """`new` after a good step; after another `old`, but for the step's number."""
  good = jnp.isfinite(health.loss) & jnp.isfinite(health.norm)
  kept = jax.tree.map(lambda x, y: jnp.where(good, y, x), old, new)
  return kept | dict(step=new['step'])


def watch(limit, params, rows, workdir):
  """A function that looks at steps, and stops at one too many.

  Args:
    limit: steps that are not finite and are skipped, of the whole run.
    params: a tree with the names of the gradients.
    rows: step -> the training examples of its batch, from 0.
    workdir: of the run, for the message.

  Returns:
    check(seen, step, skipped), of the Healths of the steps up to `step`, on the
    host, and how many the run has skipped up to it. It tells of each that is
    not finite, and raises FloatingPointError when they are more than `limit`.

  Raises:
    ValueError: limit < 0.
  """
  if limit < 0:
    raise ValueError(f'skip_nonfinite={limit}; expected at least 0.')
  names = list(tree_table.named(params))

  def check(seen, step, skipped):
    first = step - len(seen)  # steps done before
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
  """What was not finite in step index + 1, and with which examples."""
  squares = zip(names, health.squares, strict=True)
  parts = [name for name, x in squares if not np.isfinite(x)]
  where = tree_table.some(parts) or 'no part alone'
  if len(parts) == len(names):
    where = 'all parts'
  return (
    f'At step {index + 1} the loss is {health.loss} and the gradient has the '
    f'norm {health.norm}, not finite in {where}; the batch has the examples '
    f'{tree_table.some(rows(index), most=64)}.'
  )
