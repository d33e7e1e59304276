# SPDX-License-Identifier: Apache-2.0
"""Computes how many directions the heads of a layer use, alone and together.

Energy means squared singular values. Axes: D model, H heads, K width of a head,
N = H K.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from collab import checks
from collab.convert import intercept
from collab.convert.decompose.input_statistics import Moments, white
from collab.convert.decompose.mha import NAMES, Mha, read


class Energy(NamedTuple):
  """The share of energy in the r largest components, r = 1, 2, ...; float64.

  Attributes:
    head: that of Wq_h Wk_h^T, the mean over heads, [K].
    query: that of `[Wq_1 ... Wq_H]`, [min(D, N)].
    key: that of `[Wk_1 ... Wk_H]`.
    product: that of `[Wq_1 ... Wq_H] [Wk_1 ... Wk_H]^T`.
  """

  head: np.ndarray
  query: np.ndarray
  key: np.ndarray
  product: np.ndarray


def of_layer(mha: Mha, inputs: Moments) -> Energy:
  """Computes the principal components of a layer's projections.

  These are the components of Cx^(1/2) Wq and Cy^(1/2) Wk. Cx and Cy are the
  covariances of the inputs; that of the keys is about the mean of each row.
  With `white` inputs they are the components of the weights themselves.
  """
  D, H, K = mha.query.shape
  # Any root gives the same singular values, R^T W or C^(1/2) W.
  wq, wk = (
    np.linalg.cholesky(cov).T @ w.reshape(D, -1)
    for cov, w in ((inputs.x_cov, mha.query), (inputs.y_within, mha.key))
  )
  each = lambda w: w.reshape(D, H, K).transpose(1, 0, 2)
  head = _shares(each(wq), each(wk)).mean(0)
  return Energy(head, _shares(wq), _shares(wk), _shares(wq, wk))


def _shares(a, b=None):
  """Returns cumulative shares for a or a b^T, matrices [..., D, n]."""
  x = np.linalg.qr(a, mode='r')
  if b is not None:
    x = x @ np.linalg.qr(b, mode='r').swapaxes(-1, -2)
  squares = np.linalg.svd(x, compute_uv=False) ** 2
  whole = squares.sum(-1, keepdims=True)
  if not whole.all():
    raise ValueError('projections of queries or keys are zero.')
  return squares.cumsum(-1) / whole


def gaussian(mha: Mha) -> Mha:
  """Makes a random-projection baseline: the layer with Gaussian weights.

  Its heads have nothing in common.
  """
  rng = np.random.default_rng(0)
  return mha._replace(
    query=rng.normal(size=mha.query.shape), key=rng.normal(size=mha.key.shape)
  )


def of_layers(params: Mapping, inputs: Mapping | None = None) -> dict:
  """Returns {path: (Energy, Energy of Gaussian weights)} of all MHA layers.

  Args:
    params: parameters of a model.
    inputs: {path: Moments}; white inputs by default.

  Raises:
    ValueError: there are no such layers, or one cannot be analysed.
  """
  trees = {
    path: intercept.get(params, path) for path in intercept.paths(params)
  }
  trees = {path: x for path, x in trees.items() if x.keys() == {*NAMES}}
  if not trees:
    raise ValueError('No layer is multi-head attention, whose heads differ.')
  found = {}
  for path, tree in tqdm(trees.items(), 'layers', leave=False, disable=None):
    with checks.located('/'.join(path)):
      mha = read(tree)
      seen = inputs[path] if inputs else white(len(mha.query))
      found[path] = of_layer(mha, seen), of_layer(gaussian(mha), seen)
  return found


def needed(curve: np.ndarray, share: float) -> int:
  """Returns the number of components that hold a share of the energy."""
  return int(np.searchsorted(curve, share)) + 1
