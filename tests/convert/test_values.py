# SPDX-License-Identifier: Apache-2.0
"""Values of lower rank against the layer that they come from, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from collab import attention
from collab.convert.decompose import layers, values
from collab.convert.decompose.mha import read
from tests.convert.test_layers import INPUTS, D, H, K, close, layer

RNG = np.random.default_rng(0)
WIDTHS = (2, 0, 4)


def seen(o):
  """Moments of mixed values o [N, H, V]."""
  o = o.reshape(len(o), -1)
  mean, cov = o.mean(0), np.cov(o.T, bias=True)
  return INPUTS['data']._replace(o_mean=mean, o_cov=cov)


def mixed(mha, heads=H):
  """Mixed values of some tokens: those of each head are means of its own."""
  y = RNG.normal(size=(400, heads, D)) * np.geomspace(2, 0.1, D) + 1
  return np.einsum('nhd,dhv->nhv', y, mha.value)


def lost(old, new, o):
  """Output of new values less that of old ones, [N, D]; o is without biases."""
  # The new values are Wv_h X_h, and Wv_h has more rows than columns.
  x = np.stack(
    [
      np.linalg.lstsq(a, b)[0]
      for a, b in zip(
        old.value.swapaxes(0, 1), new.value.swapaxes(0, 1), strict=True
      )
    ]
  )
  have = np.einsum('nhv,hvw,hwd->nd', o, x, new.out) + new.bias
  return have - np.einsum('nhv,hvd->nd', o, old.out) - old.bias


def test_exact_at_full_rank():
  mha = read(layer())
  o = mixed(mha)
  for moments in (*INPUTS.values(), seen(o)):
    new = values.low_rank(mha, moments, (K,) * H)
    close(lost(mha, new, o) + 1, np.ones((400, D)), 1e-9)


def test_loses_the_directions_that_it_leaves_out():
  """Of heads that do not depend on each other, and for the mean nothing."""
  mha = read(layer(biases=('query', 'key', 'out')))
  o = mixed(mha)
  moments = seen(o)
  own = np.kron(np.eye(H), np.ones((K, K)))
  moments = moments._replace(o_cov=moments.o_cov * own)
  gains, _ = values.spectrum(mha, moments)
  assert (np.diff(gains) <= 0).all()
  new = values.low_rank(mha, moments, WIDTHS)
  d = lost(mha, new, o)
  close(d.mean(0) + 1, np.ones(D), 1e-9)
  # By the covariance without what heads have in common.
  x = [np.linalg.lstsq(mha.value[:, h], new.value[:, h])[0] for h in range(H)]
  e = np.stack([x[h] @ new.out[h] - mha.out[h] for h in range(H)])
  e = e.reshape(-1, D)
  want = sum(gains[h, width:].sum() for h, width in enumerate(WIDTHS))
  close(np.trace(e.T @ moments.o_cov @ e), want, 1e-9)


def test_heads_make_up_for_others():
  """A head that another equals may be pruned."""
  params = layer()
  params['value']['kernel'][:, 1] = params['value']['kernel'][:, 0]
  params['value']['bias'][1] = params['value']['bias'][0]
  mha = read(params)
  o = mixed(mha)
  o[:, 1] = o[:, 0]
  moments = seen(o + params['value']['bias'])
  new = values.low_rank(mha, moments, (K, 0, K))
  close(lost(mha, new, o) + 1, np.ones((400, D)), 1e-6)
  alone = values.low_rank(mha, INPUTS['data'], (K, 0, K))
  assert np.abs(lost(mha, alone, o)).max() > 0.1


def test_outputs_narrower_than_a_head():
  """A head has only as many directions as outputs, but any width up to V."""
  mha = read(layer())
  mha = mha._replace(out=mha.out[..., :2], bias=mha.bias[:2])
  gains, directions = values.spectrum(mha, INPUTS['data'])
  assert gains.shape == (H, K)
  assert directions.shape == (H, K, 2)
  new = values.low_rank(mha, INPUTS['data'], (2, 3, K))
  close(*(np.einsum('dhv,hve->dhe', x.value, x.out) for x in (new, mha)), 1e-9)


def test_ranks_for_an_error_are_the_least():
  """Of what is left of two heads that nearly cancel each other out."""
  params = layer(biases=())
  params['value']['kernel'][:, 1] = params['value']['kernel'][:, 0]
  params['out']['kernel'][1] = -params['out']['kernel'][0]
  params['out']['kernel'][2] *= 1e-3
  mha = read(params)
  o = mixed(mha)
  o[:, 1] = o[:, 0] + 0.05 * o[:, 1] @ RNG.normal(size=(K, K))
  moments = seen(o)

  def error(widths):
    new = values.low_rank(mha, moments, widths)
    old = np.einsum('nhv,hvd->nd', o, mha.out)
    return (lost(mha, new, o).var(0).sum() / old.var(0).sum()) ** 0.5

  gains, _ = values.spectrum(mha, moments)
  order = np.argsort(-gains, axis=None)
  for most in (0.1, 0.5, 2.0):
    widths = values.ranks_for_error(mha, moments, most)
    n = widths.sum()
    np.testing.assert_array_equal(
      widths, np.bincount(order[:n] // K, minlength=H)
    )
    assert error(widths) <= most * (1 + 1e-6)
    if n > 1:
      assert error(np.bincount(order[: n - 1] // K, minlength=H)) > most
  assert values.ranks_for_error(mha, moments, 0).tolist() == [K] * H


def test_tree_is_that_of_the_layer():
  mha, m = read(layer()), INPUTS['data']
  tree = layers.collab(values.low_rank(mha, m, WIDTHS), m, shared_dim=4)
  own = values.packed(tree, WIDTHS)
  x = jnp.asarray(RNG.normal(size=(2, 11, D)), jnp.float32)
  plain = attention.build('collab', num_heads=H, shared_dim=4)
  built = plain.clone(value_dims=WIDTHS)
  want = jax.eval_shape(built.init, jax.random.key(0), x)['params']
  assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, want)
  run = lambda layer, tree: layer.apply(
    {'params': jax.tree.map(jnp.float32, tree)}, x
  )
  close(run(built, own), run(plain, tree))


def test_a_pruned_head_is_its_mean():
  """Where it tells nothing about others, whose outputs then stay."""
  mha = read(layer())
  o = mixed(mha)
  moments = seen(o + mha.value_bias)
  own = np.kron(np.eye(H), np.ones((K, K)))
  moments = moments._replace(o_cov=moments.o_cov * own)
  new = values.pruned(mha, moments, 2)
  (gone,) = set(range(H)) - {
    h for h in range(H) for x in new.query.swapaxes(0, 1)
    if (x == mha.query[:, h]).all()
  }  # fmt: skip
  products = lambda x: np.einsum('dhv,hve->hde', x.value, x.out)
  close(products(new), np.delete(products(mha), gone, 0), 1e-9)
  mean = o[:, gone].mean(0) @ mha.out[gone]
  close(new.bias, mha.bias + mean, 1e-9)
  assert new.query_bias.shape == (2, K)


def test_the_heads_that_cost_least_leave():
  mha = read(layer(biases=()))
  o = mixed(mha)
  o[:, 1] += o[:, 0]
  moments = seen(o)
  error = lambda kept: np.square(
    lost(mha, values.low_rank(mha, moments, np.isin(range(H), kept) * K), o)
  ).sum(1).mean()  # fmt: skip
  order, costs = values.leaving(mha, moments)
  left, before = set(range(H)), 0
  for h, cost in zip(order[:-1], costs, strict=False):
    errors = {x: error([*left - {x}]) for x in left}
    assert h == min(errors, key=errors.get)
    np.testing.assert_allclose(cost, errors[h] - before, rtol=1e-5)
    left, before = left - {h}, errors[h]
