# SPDX-License-Identifier: Apache-2.0
"""Measures means and covariances of the inputs of attention layers.

Axes: B batch, T queries, S keys, D model, H heads, V value width.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collab.convert import intercept

# Share of the mean variance that is added to all directions, so that those
# without variance in the calibration data count too.
SHRINK = 1e-3


class Moments(NamedTuple):
  """The moments of one layer's inputs, float64.

  Attributes:
    x_mean: mean of the queries' input, [D].
    x_cov: covariance of the queries' input, [D, D].
    y_mean: mean of the keys' and values' input, [D].
    y_cov: covariance of the keys' and values' input, [D, D].
    y_within: covariance of the same about the mean of each row of the batch,
      [D, D]. What all keys of a query share does not change its weights.
    o_mean: mean of the heads' mixed values, [H V]; None where unknown.
    o_cov: covariance of the same, [H V, H V].
  """

  x_mean: np.ndarray
  x_cov: np.ndarray
  y_mean: np.ndarray
  y_cov: np.ndarray
  y_within: np.ndarray
  o_mean: np.ndarray | None = None
  o_cov: np.ndarray | None = None


def white(D: int) -> Moments:
  """Returns the moments of white inputs with mean 0, for unknown inputs."""
  zero, one = np.zeros(D), np.eye(D)
  return Moments(zero, one, zero, one, one)


def collect(model: Any, params: Mapping, batches: Sequence) -> dict:
  """Measures {path: Moments} of the attention layers of a model over batches.

  Args:
    model, params: as in `intercept.run`.
    batches: batches of the model; each shape is compiled once.

  Raises:
    ValueError: there are no batches, or inputs are not finite.
  """
  paths = tuple(intercept.paths(params))

  def sums(batch):
    calls = intercept.record(model, params, batch, paths)
    return {
      path: jax.tree.map(lambda *x: sum(x), *map(_sums, found))
      for path, found in calls.items()
    }

  if not batches:
    raise ValueError('There are no calibration batches.')
  exact = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
  found = (exact(sums(batch)) for batch in batches)
  total = functools.reduce(functools.partial(jax.tree.map, np.add), found)
  return {path: _moments(path, x) for path, x in total.items()}


@jax.jit
def _sums(inputs):
  x, y, x_valid, y_valid, _, o, _ = inputs
  outer = lambda a: jnp.einsum('bsd,bse->de', a, a)
  o = o.reshape(*x.shape[:2], -1)
  x, y, o = (
    jnp.where(valid[..., None], a, 0).astype(jnp.float32)
    for a, valid in ((x, x_valid), (y, y_valid), (o, x_valid))
  )
  count = y_valid.sum(1)[:, None, None]
  mean = y.sum(1, keepdims=True) / jnp.maximum(count, 1)
  within = jnp.where(y_valid[..., None], y - mean, 0)
  # Each row is weighted by its number of queries.
  share = x_valid.sum(1)[:, None, None] / jnp.maximum(count, 1)
  return dict(
    n=x_valid.sum(),
    x=x.sum((0, 1)),
    xx=outer(x),
    s=y_valid.sum(),
    y=y.sum((0, 1)),
    yy=outer(y),
    within=outer(within * jnp.sqrt(share)),
    o=o.sum((0, 1)),
    oo=outer(o),
  )


def _moments(path, sums):
  if not all(np.isfinite(x).all() for x in sums.values()) or not sums['n']:
    raise ValueError(
      f'{"/".join(path)}: on the calibration batches its inputs are not finite '
      'or all padding.'
    )
  x_mean, y_mean = sums['x'] / sums['n'], sums['y'] / sums['s']
  x_cov = sums['xx'] / sums['n'] - np.outer(x_mean, x_mean)
  y_cov = sums['yy'] / sums['s'] - np.outer(y_mean, y_mean)
  within = sums['within'] / sums['n']
  o_mean = sums['o'] / sums['n']
  o_cov = sums['oo'] / sums['n'] - np.outer(o_mean, o_mean)
  x_cov, y_cov, within, o_cov = map(_shrink, (x_cov, y_cov, within, o_cov))
  return Moments(x_mean, x_cov, y_mean, y_cov, within, o_mean, o_cov)


def _shrink(cov):
  D = len(cov)
  return cov + (SHRINK * np.trace(cov) / D + 1e-12) * np.eye(D)
