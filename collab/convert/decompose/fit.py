# SPDX-License-Identifier: Apache-2.0
"""Measures the errors of converted layers, and refines layers to reduce them.

Both compare outputs on the inputs that the old model's layers receive:

    error = sqrt(sum |new(x) - old(x)|^2 / sum |old(x) - mean old|^2)
    disturbance = sqrt(sum |new(x) - old(x)|^2 / sum |x|^2)

x is the layer's input. With norm='post' this is the residual stream, to which
the output is added; with 'pre' and 'both' it is the normalised stream. The sums
are over tokens that are not padding. Axes: B batch, T queries, D model.
"""

from collections.abc import Callable, Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import trange

from collab.convert import intercept
from collab.convert.calibration import Calibration


class Sums(NamedTuple):
  """Sums over tokens of a layer's calls.

  Attributes:
    lost: |new - old|^2.
    square: |old|^2.
    total: old, [D].
    count: 1.
    inputs: |x|^2.
  """

  lost: jax.Array
  square: jax.Array
  total: jax.Array
  count: jax.Array
  inputs: jax.Array

  def squared_error(self) -> jax.Array:
    """Computes the square of the error."""
    return self.lost / (self.square - jnp.square(self.total).sum() / self.count)

  def squared_disturbance(self) -> jax.Array:
    """Computes the square of the disturbance."""
    return self.lost / self.inputs


def measure(
  params: Mapping, pairs: Mapping, calibration: Calibration | None = None
) -> Callable[[Mapping], dict[tuple, Sums]]:
  """Makes a function {path: parameters of the layer after} -> {path: Sums}.

  Args:
    params: parameters of the old model.
    pairs: {path: (layer before, layer after)}, each an attention.Attention.
    calibration: calibration.Calibration; None for white-noise inputs.
  """
  if calibration is None:
    batches = [{p: [_noise(old, params, p)] for p, (old, _) in pairs.items()}]
    see = lambda calls: calls
  else:
    see, batches = _see(params, pairs, calibration), calibration.batches

  def run(new):
    found = (
      {p: _sums(pairs[p][1], new[p], calls) for p, calls in see(batch).items()}
      for batch in batches
    )
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), found)

  return run


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

  own = {path: intercept.get(new, path) for path in pairs}

  def loss(own, calls):
    return sum(
      _sums(layer, own[path], calls[path]).squared_error()
      for path, (_, layer) in pairs.items()
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
  how = calibration.model, params
  return lambda batch: intercept.record(*how, batch, tuple(pairs))


def _noise(layer, params, path):
  tree = intercept.get(params, path)
  D = tree['query']['kernel'].shape[0]
  x = jax.random.normal(jax.random.key(0), (4, 64, D))
  valid = jnp.ones(x.shape[:2], bool)
  out = layer.apply({'params': tree}, x, deterministic=True)
  return intercept.Inputs(x, x, valid, valid, None, out=out)


@functools.partial(jax.jit, static_argnums=0)
def _sums(layer, tree, calls):
  """Returns the Sums of a layer over the calls of the one before it."""

  def one(inputs):
    x, y, valid, _, mask, _, out, _ = inputs
    got = layer.apply({'params': tree}, x, y, mask=mask, deterministic=True)
    x, there, lost = (
      jnp.where(valid[..., None], a, 0) for a in (x, out, got - out)
    )
    return Sums(
      jnp.square(lost).sum(),
      jnp.square(there).sum(),
      there.sum((0, 1)),
      valid.sum(),
      jnp.square(x).sum(),
    )

  return jax.tree.map(lambda *x: sum(x), *map(one, calls))
