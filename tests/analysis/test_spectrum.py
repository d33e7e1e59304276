# SPDX-License-Identifier: Apache-2.0
"""Energy of projections against the SVD of whole matrices."""

import numpy as np
import pytest

from collab.analysis import spectrum
from collab.convert.decompose import cp, input_statistics
from collab.convert.decompose.mha import read

D, H, K = 17, 3, 5
RNG = np.random.default_rng(0)
SPREAD = RNG.normal(size=(2, D, D)) * np.geomspace(3, 0.1, D)
COVS = SPREAD @ SPREAD.swapaxes(1, 2)
DATA = input_statistics.Moments(
  RNG.normal(size=D), COVS[0], *[np.nan] * 2, COVS[1]
)
WHITE = input_statistics.white(D)


def layer(heads=H, width=K, seed=0):
  """Parameters of multi-head attention."""
  rng = np.random.default_rng(seed)
  params = {
    name: dict(kernel=rng.normal(size=(D, heads, width)))
    for name in ('query', 'key', 'value')
  }
  return params | dict(out=dict(kernel=rng.normal(size=(heads, width, D))))


def shares(matrix):
  squares = np.linalg.svd(matrix, compute_uv=False) ** 2
  return np.cumsum(squares) / squares.sum()


@pytest.mark.parametrize('width', [K, 7])  # N is less, and more than D
@pytest.mark.parametrize('inputs', [WHITE, DATA], ids=['white', 'data'])
def test_is_that_of_the_matrices(width, inputs):
  mha = read(layer(width=width))
  found = spectrum.of_layer(mha, inputs)
  wq, wk = (
    np.einsum('de,ehk->dhk', cp.root(cov)[0], w)
    for cov, w in ((inputs.x_cov, mha.query), (inputs.y_within, mha.key))
  )
  heads = [shares(wq[:, h] @ wk[:, h].T)[:width] for h in range(H)]
  wq, wk = wq.reshape(D, -1), wk.reshape(D, -1)
  n = min(D, H * width)
  want = np.mean(heads, 0), shares(wq), shares(wk), shares(wq @ wk.T)[:n]
  for got, curve in zip(found, want, strict=True):
    np.testing.assert_allclose(got, curve, rtol=1e-6)


def test_heads_that_share_need_no_more_than_one():
  """The paper's point: each head uses its full width, all use the same."""
  params = layer()
  for name in ('query', 'key'):
    own, turn = RNG.normal(size=(D, K)), RNG.normal(size=(H, K, K))
    params[name] = dict(kernel=np.einsum('dk,hkl->dhl', own, turn))
  found = spectrum.of_layer(read(params), WHITE)
  assert found.head[K - 2] < 0.9999
  for curve in found[1:]:
    assert len(curve) == H * K
    np.testing.assert_allclose(curve[K - 1 :], 1, rtol=1e-9)
  alone = spectrum.of_layer(read(layer()), WHITE)
  for curve in alone[1:]:
    assert curve[K - 1] < 0.9


def test_inputs_of_few_directions_need_few_components():
  few = RNG.normal(size=(D, 2))
  cov = few @ few.T + 1e-9 * np.eye(D)
  inputs = DATA._replace(x_cov=cov, y_within=cov)
  for curve in spectrum.of_layer(read(layer()), inputs):
    assert curve[1] > 1 - 1e-6


def test_gaussian_weights_have_the_shape_and_nothing_else():
  one, two = (read(layer(seed=seed)) for seed in (0, 1))
  a, b = spectrum.gaussian(one), spectrum.gaussian(two)
  assert a.query.shape == one.query.shape
  np.testing.assert_array_equal(a.query, b.query)
  np.testing.assert_array_equal(a.key, b.key)
  assert np.abs(a.query - a.key).max() > 1


def test_of_layers_takes_each_layers_inputs():
  stack = {f'layer_{i}': dict(self_attention=layer(seed=i)) for i in range(2)}
  params = dict(encoder=stack, embed=dict(embedding=np.ones((3, D))))
  first, second = [
    ('encoder', f'layer_{i}', 'self_attention') for i in range(2)
  ]
  found = spectrum.of_layers(params, {first: WHITE, second: DATA})
  assert [*found] == [first, second]
  for path, inputs, seed in ((first, WHITE, 0), (second, DATA, 1)):
    mha = read(layer(seed=seed))
    for got, of in zip(found[path], (mha, spectrum.gaussian(mha)), strict=True):
      for curve, want in zip(got, spectrum.of_layer(of, inputs), strict=True):
        np.testing.assert_array_equal(curve, want)
  own, _ = spectrum.of_layers(params)[second]
  want = spectrum.of_layer(read(layer(seed=1)), WHITE)
  np.testing.assert_array_equal(own.product, want.product)


def test_needed_counts_components():
  curve = np.array([0.5, 0.9, 0.97, 1.0])
  got = [spectrum.needed(curve, share) for share in (0.1, 0.9, 0.95, 0.99)]
  assert got == [1, 2, 3, 4]


def test_refuses():
  with pytest.raises(ValueError, match=r'^No layer is multi-head attention'):
    spectrum.of_layers(dict(x=dict(layer(), latent=dict(kernel=np.ones(3)))))
  zero = layer()
  zero['key'] = dict(kernel=np.zeros((D, H, K)))
  with pytest.raises(ValueError, match=r'^encoder/x: .*queries or keys.*zero'):
    spectrum.of_layers(dict(encoder=dict(x=zero)))
  grouped = layer() | dict(key=dict(kernel=np.ones((D, 1, K))))
  with pytest.raises(ValueError, match=r'^encoder/x: Not the kernels of multi'):
    spectrum.of_layers(dict(encoder=dict(x=grouped)))
