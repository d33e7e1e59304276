# SPDX-License-Identifier: Apache-2.0
"""How many directions the heads of a layer use, one by one and together.

Energy is the squares of singular values. Axes: D model, H heads, K width of a
head, N = H K.
"""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from collab.convert import intercept
from collab.convert.decompose import input_statistics, layers


class Energy(NamedTuple):
  """The share that the r largest components hold, r = 1, 2, ...; float64.

  Attributes:
    head: of Wq_h Wk_h^T, the mean over heads, [K].
    query: of [Wq_1 ... Wq_H], [min(D, N)].
    key: of [Wk_1 ... Wk_H].
    product: of [Wq_1 ... Wq_H] [Wk_1 ... Wk_H]^T.
  """

  head: np.ndarray
  query: np.ndarray
  key: np.ndarray
  product: np.ndarray


def of_layer(mha, inputs) -> Energy:
  """The principal components of a layer's projections.

  Of Cx^(1/2) Wq and Cy^(1/2) Wk, where C are the covariances of the inputs, of
  keys about the mean of their row: with those of `moments.white` it is the
  weights' own.

  Args:
    mha: layers.Mha.
    inputs: moments.Moments.
  """
  D, H, K = mha.query.shape
  # Any root will do: the singular values of R^T W are those of C^(1/2) W.
  wq, wk = (
    np.linalg.cholesky(cov).T @ w.reshape(D, -1)
    for cov, w in ((inputs.x_cov, mha.query), (inputs.y_within, mha.key))
  )
  each = lambda w: w.reshape(D, H, K).transpose(1, 0, 2)
  return Energy(
    _shares(each(wq), each(wk)).mean(0),
    _shares(wq),
    _shares(wk),
    _shares(wq, wk),
  )


def _shares(a, b=None):
  """Cumulative shares of a or a b^T, of matrices [..., D, n]."""
  x = np.linalg.qr(a, mode='r')
  if b is not None:
    x = x @ np.linalg.qr(b, mode='r').swapaxes(-1, -2)
  squares = np.linalg.svd(x, compute_uv=False) ** 2
  whole = squares.sum(-1, keepdims=True)
  if not whole.all():
    raise ValueError('projections of queries or keys are zero.')
  return squares.cumsum(-1) / whole


def gaussian(mha):
  """The layer with random projections: heads that nobody made alike."""
  rng = np.random.default_rng(0)
  return mha._replace(
    query=rng.normal(size=mha.query.shape), key=rng.normal(size=mha.key.shape)
  )


def of_layers(params, inputs=None):
  """{path: (Energy, that of Gaussian weights)} of multi-head attention layers.

  Args:
    params: of a model.
    inputs: {path: Moments}, default white.

  Raises:
    ValueError: no such layers, or one of which nothing can be said.
  """
  found = {}
  for path in tqdm(
    intercept.paths(params), 'layers', leave=False, disable=None
  ):
    try:
      mha = layers.read(intercept.get(params, path))
      seen = inputs[path] if inputs else input_statistics.white(len(mha.query))
      found[path] = of_layer(mha, seen), of_layer(gaussian(mha), seen)
    except ValueError as e:
      raise ValueError(f'{"/".join(path)}: {e}') from e
  if not found:
    raise ValueError('No layer is multi-head attention, whose heads differ.')
  return found


def needed(curve, share):
  """The number of components that hold a share of the energy."""
  return int(np.searchsorted(curve, share)) + 1
