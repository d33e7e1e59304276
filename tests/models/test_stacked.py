# SPDX-License-Identifier: Apache-2.0
"""Layers that are stacked: the same parameters, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from collab import models
from collab.models import parameters, stacked
from collab.training import nonfinite
from tests.few import few
from tests.models import small

LAYERS = 11  # so that layer_10 comes before layer_2 by name


def tree(n=LAYERS):
  rng = np.random.default_rng(0)
  layer = lambda: dict(kernel=rng.normal(size=(2, 3)), bias=rng.normal(size=5))
  layers = {f'layer_{i}': layer() for i in range(n)}
  return dict(decoder=layers | dict(norm=np.ones(7)), embed=np.ones((2, 2)))


def test_layers_are_in_their_order():
  params = tree()
  got = stacked.stack(params)
  assert got.keys() == params.keys()
  assert got['decoder'].keys() == {stacked.LAYERS, 'norm'}
  for i in range(LAYERS):
    for name, x in params['decoder'][f'layer_{i}'].items():
      small.close(got['decoder'][stacked.LAYERS][name][i], x)


def test_what_is_stacked_comes_back():
  """In any container, as an optimiser's state."""
  state = (tree(), dict(count=3), [tree()])
  back = stacked.unstack(stacked.stack(state))
  assert jax.tree.structure(back) == jax.tree.structure(state)
  jax.tree.map(small.close, back, state)


def test_one_layer_stays():
  params = tree(1)
  assert stacked.stack(params) == params
  assert stacked.unstack(params) == params


def test_a_module_called_layers_is_not_stacked():
  """That of a model of one's own, which may have any name."""
  params = dict(layers=dict(kernel=np.ones((2, 3))))
  assert parameters.decays(params)['layers']['kernel']
  assert stacked.unstack(params) == params
  found = nonfinite.health(jnp.float32(1), params)
  assert found.squares.tolist() == [6]


@few([{}, dict(remat='full'), dict(dropout=0.3)], [dict(dropout=0.3)], 'fields')
def test_a_scan_of_stacked_layers_is_the_loop(fields):
  """Values and gradients, with dropout too."""
  sizes = dict(vocab_size=small.V, dim=small.D, mlp_dim=17, max_length=7)
  common = dict(dropout=0.0, num_layers=2) | sizes | fields
  attention = dict(name='mhe_mul', num_heads=small.H)
  loop, scan = (
    models.build('decoder', attention=attention, scan=scan, **common)
    for scan in (False, True)
  )
  batch = dict(tokens=np.arange(14).reshape(2, 7))
  params = small.parameters(loop, batch)

  def value_and_grad(model, params):
    rngs = dict(dropout=jax.random.key(3))
    loss = lambda params: (
      model.apply({'params': params}, batch, rngs=rngs) ** 2
    ).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  want = value_and_grad(loop, params)
  value, grads = value_and_grad(scan, stacked.stack(params))
  jax.tree.map(small.close, (value, stacked.unstack(grads)), want)
