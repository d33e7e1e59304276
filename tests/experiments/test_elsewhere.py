# SPDX-License-Identifier: Apache-2.0
"""Models with fewer neurons or layers, against the models they come from."""

import types

import jax
import numpy as np

from experiments import elsewhere
from tests.convert.test_reparametrize import apply, calibrated, given


def test_neurons_of_no_use_leave_first():
  """A neuron without weights, and one of two that are always equal."""
  model, params, batch, _ = given('bert_Model')
  params = jax.tree.map(np.copy, params)
  first, second = (params['encoder'][f'layer_{i}'] for i in range(2))
  first['mlp_out']['kernel'][3] = 0
  for x in second['mlp_in'].values():
    x[..., 4] = x[..., 2]
  want = apply_to(model, params, batch)
  seen = calibrated(model, batch)
  less, new = elsewhere.fewer_neurons(model, params, seen, 2)
  assert less['mlp_dim'] == (model['mlp_dim'] - 1,) * 2
  for got, x in zip(apply_to(less, new, batch), want, strict=True):
    np.testing.assert_allclose(got, x, atol=0.02)


def test_the_best_of_the_models_without_a_layer():
  model, params, batch, _ = given('bert_Model')
  seen = []

  def score(model, params):
    seen.append(params['encoder']['layer_0'])
    return len(seen)

  less, new = elsewhere.without_a_layer(model, params, score)
  assert seen[0] is params['encoder']['layer_1']
  assert new['encoder']['layer_0'] is params['encoder']['layer_0']
  assert less['num_layers'] == 1
  apply_to(less, new, batch)


def apply_to(model, params, batch):
  return apply(types.SimpleNamespace(model=model, params=params), batch)
