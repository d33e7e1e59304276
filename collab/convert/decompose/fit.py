# SPDX-License-Identifier: Apache-2.0
"""Measures the errors of converted layers, and refines layers to reduce them.

Both compare outputs on the inputs that the old model's layers receive:

    error = sqrt(sum |new(x) - old(x)|^2 / sum |old(x) - mean old|^2)

The sums are over tokens that are not padding. Axes: B batch, T queries, D
model.
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import trange

from collab.convert import intercept
from collab.convert.calibration import Calibration


def errors(
  params: Mapping,
  new: Mapping,
  pairs: Mapping,
  calibration: Calibration | None = None,
) -> dict[tuple, float]:
  """Computes {path: error} of all layers.

  Args:
    params: parameters of the old model.
    new: the same tree with other parameters at the paths.
    pairs: {path: (layer before, layer after)}, each an attention.Attention.
    calibration: calibration.Calibration; None for white-noise inputs.
  """

  def sums(calls):
    return {
      path: _sums(
        intercept.get(params, path), intercept.get(new, path), *pairs[path], c
      )
      for path, c in calls.items()
    }

  if calibration is None:
    total = sums({path: [_noise(params, path)] for path in pairs})
  else:
    seen = map(_see(params, pairs, calibration), calibration.batches)
    total = functools.reduce(
      functools.partial(jax.tree.map, jnp.add), map(jax.jit(sums), seen)
    )
  return {path: float(jnp.sqrt(_share(x))) for path, x in total.items()}


def refine(
  params: Mapping,
  new: Mapping,
  pairs: Mapping,
  calibration: Calibration,
  steps: int,
) -> dict:
  """Fits the new layers' parameters to the old outputs, all layers at once.

  Adam minimises the sum of the squared errors, each relative to the outputs of
  its layer; the learning rate falls to 0 as a cosine. Every layer receives the
  inputs of the old model's layer, so layers do not depend on each other.

  Returns:
    The tree `new` with other parameters at the paths.
  """
  if steps < 1:
    raise ValueError(f'refine={steps}; expected at least 1.')
  tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

  old = {path: intercept.get(params, path) for path in pairs}
  own = {path: intercept.get(new, path) for path in pairs}

  def loss(own, calls):
    return sum(
      _share(_sums(old[path], own[path], *pair, calls[path]))
      for path, pair in pairs.items()
    )

  @jax.jit
  def step(own, state, calls):
    value, grads = jax.value_and_grad(loss)(own, calls)
    updates, state = tx.update(grads, state, own)
    return optax.apply_updates(own, updates), state, value

  see, batches = _see(params, pairs, calibration), calibration.batches
  own = jax.tree.map(jnp.asarray, own)
  state = tx.init(own)
  with trange(steps, desc='refine', disable=None) as bar:
    for i in bar:
      own, state, value = step(own, state, see(batches[i % len(batches)]))
      bar.set_postfix(error=f'{(float(value) / len(pairs)) ** 0.5:.4f}')
  for path, tree in own.items():
    new = intercept.put(new, path, jax.tree.map(np.asarray, tree))
  return new


def _see(params, pairs, calibration):
  """Makes a function batch -> {path: Inputs of each call of the old layer}."""

  @jax.jit
  def see(params, batch):
    return intercept.run(calibration.model, params, batch, wanted=pairs)[1]

  return lambda batch: see(params, batch)


def _noise(params, path):
  D = intercept.get(params, path)['query']['kernel'].shape[0]
  x = jax.random.normal(jax.random.key(0), (4, 64, D))
  valid = jnp.ones(x.shape[:2], bool)
  return intercept.Inputs(x, x, valid, valid, None)


def _sums(old_params, new_params, old, new, calls):
  """Sums over all calls: |new - old|^2, |old|^2, old [D], and a count."""

  def one(inputs):
    x, y, valid, _, mask = inputs
    there, here = (
      jnp.where(
        valid[..., None],
        layer.apply({'params': tree}, x, y, mask=mask, deterministic=True),
        0,
      )
      for layer, tree in ((old, old_params), (new, new_params))
    )
    lost = jnp.square(here - there).sum()
    return lost, jnp.square(there).sum(), there.sum((0, 1)), valid.sum()

  return jax.tree.map(lambda *x: sum(x), *map(one, calls))


def _share(sums):
  """Computes the square of the error from `_sums`."""
  difference, square, total, count = sums
  return difference / (square - jnp.square(total).sum() / count)
