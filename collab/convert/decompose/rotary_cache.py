# SPDX-License-Identifier: Apache-2.0
"""What a small cache of rotated keys keeps, and what attention loses by it.

    score_h(t, s) = x_t Wq_h R_(s-t) k_g(x_s),  k_g = x Wk_g,  v_g = x Wv_g

The cache keeps n scalars z = u B of the vector u of all keys and values of a
token. Of these the first r are the latent c, and the rest, d_R, rotate: each
plane at the rate of one of the old ones (`planes` of mla). A method chooses B
and the planes; queries read rotated keys from the rotated cache, R k_g ~ A_g R
z, and values are v_g ~ U_g c.

The error that counts is the first order of what the output loses: that of the
scores, times the effect of their head on the output, and that of the values,
times their part of the output projection,

    sum_g E |Cq_g^1/2 (R k_g - A_g R z)|^2 + E |Wo_g^T (v_g - U_g c)|^2

with Cq_g the second moments of the queries of a group. The first mean is over
tokens and the lags at which scores count (see `input_statistics.Attended`, and
`rotation`), and is not centred: the mean of the keys does not cancel, since it
turns with the lag. The second is over what queries mix, about its mean, which
moves into the bias.

Axes: D model, H heads, G groups of heads that share keys, K width of a head, N
= 2 G K width of u.
"""

from typing import NamedTuple

import numpy as np

from collab.attention.rope import Rope
from collab.convert.decompose import cp, layers
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha
from collab.convert.decompose.rotation import REST, Lags, of_pairs

LENGTH = 512  # tokens whose lags count, where there are no texts
EPSILON = 1e-13  # relative; what is smaller counts as 0
ROUNDS = 4  # of fitting cache and readers in turn


class Layer(NamedTuple):
  """What the methods know of a layer, float64.

  Attributes:
    inputs: E[u u^T], [N, N].
    root: its root.
    mixed: the covariance of the u that queries mix.
    weights: E[u u^T] for white inputs of the layer.
    queries: Cq_g, [G, K, K].
    outputs: the sum of Wo_h Wo_h^T over the heads of a group, [G, K, K].
    lags: Lags of the texts and of the K / 2 planes.
  """

  inputs: np.ndarray
  root: np.ndarray
  mixed: np.ndarray
  weights: np.ndarray
  queries: np.ndarray
  outputs: np.ndarray
  lags: Lags

  def key(self, g: int) -> np.ndarray:
    """Places of a group's key in u, [K]."""
    K = len(self.queries[g])
    return np.arange(g * K, (g + 1) * K)

  def value(self, g: int) -> np.ndarray:
    """Places of a group's value in u, [K]."""
    return self.key(g) + len(self.inputs) // 2

  def at(self, places: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Makes the map [N, *] of u that is x [K, *] of these places."""
    found = np.zeros((len(self.inputs), x.shape[1]))
    found[places] = x
    return found


class Cache(NamedTuple):
  """What a layer keeps of a token, and how it is read.

  Attributes:
    kept: B, [N, n].
    planes: for each plane of z the number of the old one whose rate it has.
    keys: A, [G, K, n].
    values: U, [G, K, r].
  """

  kept: np.ndarray
  planes: tuple
  keys: np.ndarray | None = None
  values: np.ndarray | None = None

  @property
  def latent(self) -> int:
    """r, the scalars that do not rotate."""
    return self.kept.shape[1] - 2 * len(self.planes)


def layer_of(mha: Mha, moments: Moments, rope: Rope) -> Layer:
  """Gathers what the methods know of a layer, see `rotated.mla`."""
  (D, H, K), G = mha.query.shape, mha.key.shape[1]
  square = lambda cov, mean: cov + np.outer(mean, mean)
  x = square(moments.x_cov, moments.x_mean)
  w = np.concatenate([mha.key, mha.value], 1).reshape(D, -1)
  effects, lags, mixed = _attended(mha, moments)
  # E[(x Wq + b) (x Wq + b)^T] of each head
  one = np.einsum('d,dhk->hk', moments.x_mean, mha.query)
  query = np.einsum('dhk,dhl->hkl', mha.query, np.tensordot(x, mha.query, 1))
  query += np.einsum('hk,hl->hkl', mha.query_bias, one + mha.query_bias)
  query += np.einsum('hk,hl->hkl', one, mha.query_bias)
  rates, factor = rope.rates(K)
  query *= (effects * factor**4 / K)[:, None, None]
  out = np.einsum('hkd,hld->hkl', mha.out, mha.out)
  of_group = lambda x: x.reshape(G, H // G, K, K).sum(1)
  inputs = w.T @ square(moments.y_cov, moments.y_mean) @ w
  return Layer(
    inputs,
    cp.root(inputs)[0],
    w.T @ mixed @ w,
    w.T @ w,
    of_group(query),
    of_group(out),
    Lags(lags, rates),
  )


def _attended(mha, moments):
  """Effects of heads [H], shares of lags, and the covariance of mixed inputs.

  Where they are unknown, a query sees one token of LENGTH, no matter which.
  """
  if (seen := moments.attended) is not None:
    return seen.effects, seen.lags, seen.cov
  repeats = mha.query.shape[1] // mha.key.shape[1]
  key, value = (x.repeat(repeats, 1) for x in (mha.key, mha.value))
  whole = mha._replace(key=key, value=value)
  effects = layers.effects(whole, moments) ** 2
  return effects, of_pairs(LENGTH), moments.y_cov


def at_rest(layer: Layer) -> Layer:
  """Makes the same layer as one whose keys rotate when they are read."""
  every = range(layer.lags.planes)
  turned = [layer.lags.moments(x, every, every, -1) for x in layer.queries]
  still = Lags(np.ones(1), np.zeros(layer.lags.planes))
  return layer._replace(queries=np.stack(turned), lags=still)


def error(layer: Layer, cache: Cache) -> float:
  """Computes the error of the module's docstring."""
  r, lost, turned = cache.latent, 0.0, range(layer.lags.planes)
  seen, mixed = layer.inputs @ cache.kept, layer.mixed @ cache.kept[:, :r]
  moved = _moved(layer, cache, cache.kept.T @ seen)
  own = cache.kept[:, :r].T @ mixed
  for g, (query, out) in enumerate(
    zip(layer.queries, layer.outputs, strict=True)
  ):
    k, v, a, u = layer.key(g), layer.value(g), cache.keys[g], cache.values[g]
    whole = layer.inputs[np.ix_(k, k)]
    whole = layer.lags.moments(whole, turned, turned)
    cross = a @ _crossed(layer, cache, seen[k]).T
    lost += np.sum(query * (whole - cross - cross.T + a @ moved @ a.T))
    cross = u @ mixed[v].T
    whole = layer.mixed[np.ix_(v, v)]
    lost += np.sum(out * (whole - cross - cross.T + u @ own @ u.T))
  return lost


def fitted(layer: Layer, cache: Cache, rounds: int = ROUNDS) -> Cache:
  """Fits the cache to its readers and the readers to the cache, in turn."""
  for _ in range(rounds):
    cache = read(layer, _keep(layer, cache))
  return cache


def read(layer: Layer, cache: Cache) -> Cache:
  """Fits A and U to B: the regression of rotated keys on the rotated cache."""
  kept = cache.kept[:, : cache.latent]
  seen, mixed = layer.inputs @ cache.kept, layer.mixed @ kept
  inverse = _inverse(_moved(layer, cache, cache.kept.T @ seen))
  of_latent = _inverse(kept.T @ mixed)
  groups = range(len(layer.queries))
  keys = [_crossed(layer, cache, seen[layer.key(g)]) @ inverse for g in groups]
  values = [mixed[layer.value(g)] @ of_latent for g in groups]
  return cache._replace(keys=np.stack(keys), values=np.stack(values))


def _keep(layer, cache):
  """Fits B to A and U: what the readers need of each token.

  The derivative is 0 where C B X + M B Y = C E + M F, with C the moments of
  tokens, M of mixed ones, and X, E of keys, Y, F of values. In bases in which
  all four are diagonal this is a division.
  """
  n, r = cache.kept.shape[1], cache.latent
  of_keys, of_values = np.zeros((2, n, n))
  keys, values = np.zeros((2, *cache.kept.shape))
  for g, (query, out) in enumerate(
    zip(layer.queries, layer.outputs, strict=True)
  ):
    a, u = cache.keys[g], cache.values[g]
    of_keys += _moved(layer, cache, a.T @ query @ a, -1)
    of_values[:r, :r] += u.T @ out @ u
    keys[layer.key(g)] = _crossed(layer, cache, query @ a, -1)
    values[layer.value(g), :r] = out @ u
  left, c = _diagonal(layer.inputs, layer.mixed)
  right, x = _diagonal(of_keys, of_values)
  wanted = left.T @ (layer.inputs @ keys + layer.mixed @ values) @ right
  both = np.outer(c, x) + np.outer(1 - c, 1 - x)
  kept = np.divide(wanted, both, out=0 * wanted, where=both > EPSILON)
  return cache._replace(kept=left @ kept @ right.T)


def _diagonal(x, y):
  """Finds W and d, with W^T x W = diag(d) and W^T (x + y) W = 1."""
  sizes, w = np.linalg.eigh(x + y)
  there = sizes > EPSILON * sizes[-1]
  w = w[:, there] / np.sqrt(sizes[there])
  d, turn = np.linalg.eigh(w.T @ x @ w)
  return w @ turn, np.clip(d, 0, 1)


def _inverse(x):
  return np.linalg.pinv(x, EPSILON, hermitian=True)


def _moved(layer, cache, x, sign=1):
  """Averages R x R^T of a cache over the lags, [n, n]."""
  own = [REST] * cache.latent + [*cache.planes]
  x = layer.lags.moments(_wide(cache, _wide(cache, x, 0), 1), own, own, sign)
  return _narrow(cache, _narrow(cache, x, 0), 1)


def _crossed(layer, cache, x, sign=1):
  """Averages R x R^T of old vectors and a cache over the lags, [K, n]."""
  own = [REST] * cache.latent + [*cache.planes]
  old = range(layer.lags.planes)
  x = layer.lags.moments(_wide(cache, x, 1), old, own, sign)
  return _narrow(cache, x, 1)


def _wide(cache, x, axis):
  """Makes each scalar of the latent a plane, whose imaginary part is 0."""
  end = cache.latent + len(cache.planes)
  return np.insert(x, [end] * cache.latent, 0, axis)


def _narrow(cache, x, axis):
  """Undoes `_wide`."""
  end = cache.latent + len(cache.planes)
  return np.delete(x, range(end, end + cache.latent), axis)
