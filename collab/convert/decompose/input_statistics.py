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

from collab.attention import kernels
from collab.convert import intercept

# Share of the mean variance that is added to all directions, so that those
# without variance in the calibration data count too.
SHRINK = 1e-3


class Attended(NamedTuple):
  """Where the queries of a causal layer look, and what they see, float64.

  An error e_ts of a score moves the output by p_ts e_ts (v_s - o_t) Wo_h, to
  first order. So it counts by the square of what stands before it and behind.

  Attributes:
    effects: the sum of p_ts^2 |(v_s - o_t) Wo_h|^2 over the keys of a query,
      mean over the queries, [H].
    lags: the share of each lag t - s in that sum, over all heads, [T].
    mean: mean of the mixed inputs m_ht = sum_s p_hts y_s, [H, D].
    cov: covariance of the same about the mean of their head, mean over the
      heads, [D, D].
  """

  effects: np.ndarray
  lags: np.ndarray
  mean: np.ndarray
  cov: np.ndarray


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
    attended: Attended, None where unknown.
  """

  x_mean: np.ndarray
  x_cov: np.ndarray
  y_mean: np.ndarray
  y_cov: np.ndarray
  y_within: np.ndarray
  o_mean: np.ndarray | None = None
  o_cov: np.ndarray | None = None
  attended: Attended | None = None


def white(D: int) -> Moments:
  """Returns the moments of white inputs with mean 0, for unknown inputs."""
  zero, one = np.zeros(D), np.eye(D)
  return Moments(zero, one, zero, one, one)


def collect(
  model: Any, params: Mapping, batches: Sequence, attended: bool = False
) -> dict:
  """Measures {path: Moments} of the attention layers of a model over batches.

  Args:
    model, params: as in `intercept.run`.
    batches: batches of the model; each shape is compiled once.
    attended: whether to measure Attended, too, of causal layers.

  Raises:
    ValueError: there are no batches, or inputs are not finite.
  """
  paths = tuple(intercept.paths(params))
  outs = {
    path: intercept.get(params, (*path, *intercept.OUT)) for path in paths
  }

  def sums(batch):
    calls = intercept.record(model, params, batch, paths, attended)
    return {
      path: jax.tree.map(
        lambda *x: sum(x), *(_sums(x, outs[path]) for x in found)
      )
      for path, found in calls.items()
    }

  if not batches:
    raise ValueError('There are no calibration batches.')
  exact = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
  found = (exact(sums(batch)) for batch in batches)
  total = functools.reduce(functools.partial(jax.tree.map, _add), found)
  return {path: _moments(path, x) for path, x in total.items()}


def _add(a, b):
  """Adds arrays; of two batches one may have fewer lags."""
  if a.shape == b.shape:
    return a + b
  short, long = sorted((a, b), key=len)
  return long + np.pad(short, (0, len(long) - len(short)))


@jax.jit
def _sums(inputs, out):
  x, y, x_valid, y_valid, _, o, _, heads = inputs
  more = {} if heads is None else dict(attended=_attended(inputs, out))
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
  return more | dict(
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


def _attended(inputs, out):
  """Sums for Attended; `out` is the output projection, [H, V, D]."""
  (H, *_), o, h = out.shape, inputs.o, inputs.heads
  scale = h.q.shape[-1] ** -0.5 if h.scale is None else h.scale
  p, _ = kernels.weights(h.q * scale, h.k, h.key_bias, inputs.mask, H)
  p = jnp.where(inputs.x_valid[:, None, :, None], p, 0)
  v = jnp.repeat(h.v, H // h.v.shape[2], 2)
  gram = jnp.einsum('hve,hwe->hvw', out, out)
  seen, own = (jnp.einsum('bshv,hvw->bshw', x, gram) for x in (v, o))
  square = lambda x, y: jnp.einsum('bshv,bshv->bhs', x, y)
  both = jnp.einsum('bthv,bshv->bhts', o, seen)
  far = square(v, seen)[:, :, None] - 2 * both + square(o, own)[..., None]
  weights = jnp.square(p) * jnp.maximum(far, 0)
  T, S = p.shape[2:]
  lags = jnp.subtract.outer(jnp.arange(T), jnp.arange(S))
  mixed = jnp.einsum('bhts,bsd->htbd', p, inputs.y).reshape(H, -1, out.shape[2])
  return dict(
    effects=weights.sum((0, 2, 3)),
    lags=jnp.zeros(T).at[lags].add(jnp.where(lags < 0, 0, weights.sum((0, 1)))),
    mean=mixed.sum(1),
    cov=jnp.einsum('hnd,hne->de', mixed, mixed),
  )


def _moments(path, sums):
  leaves = jax.tree.leaves(sums)
  if not all(np.isfinite(x).all() for x in leaves) or not sums['n']:
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
  return Moments(
    x_mean, x_cov, y_mean, y_cov, within, o_mean, o_cov, _seen(sums)
  )


def _seen(sums):
  if 'attended' not in sums:
    return None
  found = jax.tree.map(lambda x: x / sums['n'], sums['attended'])
  if not found['lags'].any():
    raise ValueError('The calibration batches have no row of two tokens.')
  mean = found['mean']
  cov = (found['cov'] - mean.T @ mean) / len(mean)
  lags = found['lags'] / found['lags'].sum()
  return Attended(found['effects'], lags, mean, _shrink(cov))


def _shrink(cov):
  D = len(cov)
  return cov + (SHRINK * np.trace(cov) / D + 1e-12) * np.eye(D)
