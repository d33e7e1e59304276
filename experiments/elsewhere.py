# SPDX-License-Identifier: Apache-2.0
"""Compresses an encoder elsewhere than in its attention, for comparison.

    mlp = act(x W_in + b) W_out + c = sum_n a_n w_n + c

Axes: D model, F hidden width of the MLP.
"""

from collections.abc import Callable, Mapping
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from collab.convert.calibration import Calibration
from collab.convert.decompose import input_statistics, rank_search


def without_a_layer(
  model: Mapping, params: Mapping, score: Callable
) -> tuple[dict, dict]:
  """Returns the best of the models that lack one layer.

  Args:
    model: fields of models.build.
    params: its parameters.
    score: function of these two.
  """
  layers, n = params['encoder'], model['num_layers']
  found = []
  for gone in range(n):
    kept = [layers[f'layer_{i}'] for i in range(n) if i != gone]
    encoder = {f'layer_{i}': x for i, x in enumerate(kept)}
    less = dict(model, num_layers=n - 1), dict(params, encoder=encoder)
    found.append((score(*less), less))
  return max(found, key=lambda pair: pair[0])[1]


def fewer_neurons(
  model: Mapping, params: Mapping, seen: Calibration, n: int
) -> tuple[dict, dict]:
  """Prunes the n neurons of all MLPs that cost least.

  With C the covariance of the activations, the output loses |w_n|^2 / C^-1_nn
  (relative to the layer's input) if a neuron leaves and the others make up for
  it. Those that stay are fitted to the old output, whose mean is kept.
  """
  names = [f'layer_{i}' for i in range(model['num_layers'])]
  moments = _moments(seen, params)
  found = [moments[name] for name in names]
  layers = [jax.tree.map(np.asarray, params['encoder'][x]) for x in names]
  costs = []
  for layer, (_, cov, energy) in zip(layers, found, strict=True):
    square = np.square(layer['mlp_out']['kernel']).sum(1)
    costs.append(square / np.diag(np.linalg.inv(cov)) / energy)
  total = sum(map(len, costs))
  every = rank_search.buy(costs, [1] * len(costs), total - n)
  new = {
    name: _pruned(*given)
    for name, *given in zip(names, layers, found, every, strict=True)
  }
  widths = tuple(int(kept.sum()) for kept in every)
  return dict(model, mlp_dim=widths), dict(params, encoder=new)


def _pruned(layer, moments, kept):
  mean, cov, _ = moments
  w = layer['mlp_out']['kernel']
  more = np.linalg.solve(cov[kept][:, kept], cov[kept][:, ~kept] @ w[~kept])
  bias = layer['mlp_out']['bias'] + mean[~kept] @ w[~kept] - mean[kept] @ more
  mlp_in = jax.tree.map(lambda x: x[..., kept], layer['mlp_in'])
  mlp_out = dict(kernel=w[kept] + more, bias=bias)
  return layer | dict(mlp_in=mlp_in, mlp_out=jax.tree.map(np.float32, mlp_out))


def _moments(seen, params):
  """{layer: mean [F] and covariance [F, F] of activations, mean of |x|^2}."""

  @jax.jit
  def sums(batch):
    inputs = {}

    def look(function, args, kwargs, context):
      path = context.module.path
      if path[-1:] in (('mlp_in',), ('mlp_out',)):
        inputs[path[-2:]] = args[0]
      return function(*args, **kwargs)

    with nn.intercept_methods(look):
      seen.model.apply({'params': params}, batch)
    at = jnp.arange(batch['tokens'].shape[1])
    real = (at[None] < batch['lengths'][:, None]).reshape(-1, 1)
    total = {}
    for name in params['encoder']:
      x, a = (
        jnp.where(real, inputs[name, part].reshape(len(real), -1), 0)
        for part in ('mlp_in', 'mlp_out')
      )
      total[name] = real.sum(), a.sum(0), a.T @ a, jnp.square(x).sum()
    return total

  exact = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
  every = (exact(sums(batch)) for batch in seen.batches)
  total = functools.reduce(functools.partial(jax.tree.map, np.add), every)
  found = {}
  for name, (n, a, aa, square) in total.items():
    mean = a / n
    cov = aa / n - np.outer(mean, mean)
    ridge = input_statistics.SHRINK * np.trace(cov) / len(cov)
    found[name] = mean, cov + ridge * np.eye(len(cov)), square / n
  return found
