# SPDX-License-Identifier: Apache-2.0
"""Turns attention whose queries and keys rotate into mla, for a smaller cache.

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

with Cq_g the second moments of the queries of a group, and the mean over
tokens and lags (see `rotation`). Moments are not centred: the mean of the keys
does not cancel, since it turns with the lag.

Axes: D model, H heads, G groups of heads that share keys, K width of a head, N
= 2 G K width of u.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from collab import checks
from collab.attention.rope import Rope
from collab.convert.decompose import cp, layers
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha
from collab.convert.decompose.rotation import REST, Lags

ROUNDS = 4  # of fitting cache and readers in turn
SHARES = 1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2, 7 / 12  # of a cache, may rotate
FOLDS = 1, 2, 4, 8  # neighbouring planes that TransMLA takes for one


class Layer(NamedTuple):
  """What the methods know of a layer, float64.

  Attributes:
    inputs: E[u u^T], [N, N].
    root: its root.
    weights: the same for white inputs of the layer.
    queries: Cq_g, [G, K, K].
    outputs: the sum of Wo_h Wo_h^T over the heads of a group, [G, K, K].
    lags: Lags of the texts and of the K / 2 planes.
  """

  inputs: np.ndarray
  root: np.ndarray
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


def mla(
  mha: Mha,
  moments: Moments,
  rope: Rope,
  length: int,
  *,
  cache_size: int,
  rope_dim: int = 0,
  method: str = 'planes',
) -> tuple[dict, dict]:
  """Converts a layer; returns its tree, and fields of the new layer.

  Args:
    mha: the layer, with keys and values of G groups.
    moments: of its inputs.
    rope: its Rope.
    length: tokens of a text, whose lags count.
    cache_size: n, scalars of a token.
    rope_dim: d_R; by default that of SHARES with the least error.
    method: one of METHODS.
  """
  G, K = mha.key.shape[1:]
  checks.one_of('method', method, METHODS)
  checks.within('cache_size', cache_size, 4, 2 * G * K)
  layer = _layer(mha, moments, rope, length)
  turning = {max(2, 2 * round(cache_size * share / 2)) for share in SHARES}
  if method == 'svd':
    layer, turning = at_rest(layer), {0}
  turning = [rope_dim] if rope_dim else sorted(turning)
  make = METHODS[method]
  found = [x for d_R in turning for x in make(layer, cache_size, d_R)]
  if not found:
    raise ValueError(
      f'method={method} with cache_size={cache_size} can rotate none of '
      f'rope_dim={turning}, of {G} key heads with {K // 2} planes.'
    )
  of = lambda x: error(layer, x)
  best = min(found, key=of)
  if method == 'planes':
    best = min(best, fitted(layer, best), key=of)
  return _tree(mha, moments, rope, best)


def gqa(
  mha: Mha, moments: Moments, rope: Rope, length: int, *, kv_heads: int
) -> tuple[dict, dict]:
  """Averages keys and values of groups of heads (arXiv 2305.13245)."""
  del rope, length
  repeats = mha.query.shape[1] // mha.key.shape[1]
  whole = mha._replace(
    key=mha.key.repeat(repeats, 1), value=mha.value.repeat(repeats, 1)
  )
  how = dict(kv_heads=kv_heads, pooling='mean')
  return layers.gqa(whole, moments, **how), dict(kv_heads=kv_heads)


VARIANTS = dict(gqa=gqa, mla=mla)


def check_budget(kind: str, most: float, name: str, fields: Mapping) -> None:
  """Refuses a budget that cannot be one, before anything is computed."""
  if (kind, name) != ('cache', 'mla') or 'cache_size' in fields:
    raise ValueError(
      f'budget={kind}={most} with {name}: of attention with rotary positions '
      'expected cache=N of mla, without cache_size.'
    )


def _layer(mha, moments, rope, length):
  (D, H, K), G = mha.query.shape, mha.key.shape[1]
  square = lambda cov, mean: cov + np.outer(mean, mean)
  x = square(moments.x_cov, moments.x_mean)
  w = np.concatenate([mha.key, mha.value], 1).reshape(D, -1)
  whole = mha._replace(key=mha.key.repeat(H // G, 1))
  whole = whole._replace(value=mha.value.repeat(H // G, 1))
  effect = layers.effects(whole, moments)
  # E[(x Wq + b) (x Wq + b)^T] of each head
  one = np.einsum('d,dhk->hk', moments.x_mean, mha.query)
  query = np.einsum('dhk,dhl->hkl', mha.query, np.tensordot(x, mha.query, 1))
  query += np.einsum('hk,hl->hkl', mha.query_bias, one + mha.query_bias)
  query += np.einsum('hk,hl->hkl', one, mha.query_bias)
  query *= (effect**2 / K)[:, None, None]
  out = np.einsum('hkd,hld->hkl', mha.out, mha.out)
  of_group = lambda x: x.reshape(G, H // G, K, K).sum(1)
  inputs = w.T @ square(moments.y_cov, moments.y_mean) @ w
  return Layer(
    inputs,
    cp.root(inputs)[0],
    w.T @ w,
    of_group(query),
    of_group(out),
    Lags(length, rope.rates(K)[0]),
  )


def _tree(mha, moments, rope, cache):
  """Makes the tree of an mla of a Cache, and its fields."""
  (D, H, K), G = mha.query.shape, mha.key.shape[1]
  r, each = cache.latent, H // G
  kept = np.concatenate([mha.key, mha.value], 1).reshape(D, -1) @ cache.kept
  a = cache.keys.repeat(each, 0)
  u = cache.values.repeat(each, 0)
  _, factor = rope.rates(K)
  fields = dict(latent_dim=r, decoupled=False)
  query, bias, more = mha.query, mha.query_bias, {}
  if cache.planes:
    turned = a[..., r:]
    scale = (1 + turned.shape[2] / K) ** 0.5  # mla divides by sqrt(K + d_R)
    join = lambda w, x: np.concatenate([w * factor**2, x], -1) * scale
    query = join(query, np.einsum('dhk,hkr->dhr', query, turned))
    bias = join(bias, np.einsum('hk,hkr->hr', bias, turned))
    more = dict(rope_key=dict(kernel=kept[:, r:]))
    fields = dict(latent_dim=r, rope_dim=len(kept[0, r:]))
    fields |= dict(planes=tuple(map(int, cache.planes)))
  value = mha.value.repeat(each, 1)
  lost = value - np.einsum('dr,hkr->dhk', kept[:, :r], u)
  lost = np.einsum('d,dhk,hke->e', moments.y_mean, lost, mha.out)
  tree = more | dict(
    query=dict(kernel=query, bias=bias),
    latent=dict(kernel=kept[:, :r]),
    key_up=dict(kernel=a[..., :r].transpose(2, 0, 1)),
    value_up=dict(kernel=u.transpose(2, 0, 1)),
    out=dict(kernel=mha.out, bias=mha.bias + lost),
  )
  return tree, fields


# Fitting ----------------------------------------------------------------------


def error(layer: Layer, cache: Cache) -> float:
  """Computes the error of the module's docstring."""
  r, lost, turned = cache.latent, 0.0, range(layer.lags.planes)
  seen = layer.inputs @ cache.kept
  own = cache.kept.T @ seen
  moved = _moved(layer, cache, own)
  for g, (query, out) in enumerate(
    zip(layer.queries, layer.outputs, strict=True)
  ):
    k, v, a, u = layer.key(g), layer.value(g), cache.keys[g], cache.values[g]
    whole = layer.inputs[np.ix_(k, k)]
    whole = layer.lags.moments(whole, turned, turned)
    cross = a @ _crossed(layer, cache, seen[k]).T
    lost += np.sum(query * (whole - cross - cross.T + a @ moved @ a.T))
    cross = u @ seen[v, :r].T
    whole = layer.inputs[np.ix_(v, v)]
    lost += np.sum(out * (whole - cross - cross.T + u @ own[:r, :r] @ u.T))
  return lost


def fitted(layer: Layer, cache: Cache, rounds: int = ROUNDS) -> Cache:
  """Fits the cache to its readers and the readers to the cache, in turn."""
  for _ in range(rounds):
    cache = _read(layer, _keep(layer, cache))
  return cache


def _read(layer, cache):
  """Fits A and U to B: the regression of rotated keys on the rotated cache."""
  r, seen = cache.latent, layer.inputs @ cache.kept
  own = cache.kept.T @ seen
  inverse, of_latent = map(_inverse, (_moved(layer, cache, own), own[:r, :r]))
  groups = range(len(layer.queries))
  keys = [_crossed(layer, cache, seen[layer.key(g)]) @ inverse for g in groups]
  values = [seen[layer.value(g), :r] @ of_latent for g in groups]
  return cache._replace(keys=np.stack(keys), values=np.stack(values))


def _keep(layer, cache):
  """Fits B to A and U: what the readers need of each token."""
  n, r = cache.kept.shape[1], cache.latent
  gram, wanted = np.zeros((n, n)), np.zeros_like(cache.kept)
  for g, (query, out) in enumerate(
    zip(layer.queries, layer.outputs, strict=True)
  ):
    a, u = cache.keys[g], cache.values[g]
    gram += _moved(layer, cache, a.T @ query @ a, -1)
    gram[:r, :r] += u.T @ out @ u
    wanted[layer.key(g)] = _crossed(layer, cache, query @ a, -1)
    wanted[layer.value(g), :r] = out @ u
  return cache._replace(kept=wanted @ _inverse(gram))


def _inverse(x):
  return np.linalg.pinv(x, 1e-13, hermitian=True)


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


# Methods ----------------------------------------------------------------------
#
# Each yields the Caches of n scalars of which d_R rotate that it can make.


def planes(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Rotates what is seen most and turns, and leaves the rest to the latent.

  Complex PCA of the keys of all groups, plane by plane, weighted by queries. A
  component is worth its energy times 1 - |G(rate)|^2, what is lost where it
  does not rotate: slow planes stay in the latent. There the values are, and
  what the mean over the lags leaves of the other keys.
  """
  G, K = layer.queries.shape[:2]
  if not 0 < d_R <= min(G * K, n - 1):
    return
  turns = 1 - np.abs(layer.lags.mean(range(K // 2))) ** 2
  found = []
  for i in range(K // 2):
    at = np.arange(G) * K + i
    energy = layer.queries[:, [i, i + K // 2], [i, i + K // 2]].sum(1)
    sizes, mixes = _components(layer, at, K, np.sqrt(energy))
    found += [
      (size**2 * turns[i], i, at, mix)
      for size, mix in zip(sizes, mixes, strict=True)
    ]
  found = sorted(found, key=lambda x: -x[0])[: d_R // 2]
  cache = _read(layer, _rotating(layer, [x[1:] for x in found]))
  kept = _averaged(layer, cache.kept.T, cache.planes)
  own = _averaged(layer, np.eye(K), range(K // 2))
  targets = [
    (layer.at(layer.key(g), own.T) - (a @ kept).T) @ cp.root(query)[0]
    for g, (a, query) in enumerate(zip(cache.keys, layer.queries, strict=True))
  ]
  latent = _directions(layer, targets + _values(layer), n - d_R)
  yield _read(
    layer, cache._replace(kept=np.concatenate([latent, cache.kept], 1))
  )


def transmla(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Concentrates the rotation by PCA over heads (TransMLA, arXiv 2502.07864).

  Neighbouring planes are taken for one. Complex PCA over them and all heads
  finds components that go on rotating, as many of each. The rest of the keys
  stops. Scaled to the size of the values, it gets a joint PCA with them.
  Queries have no say.
  """
  G, K = layer.queries.shape[:2]
  for fold in FOLDS:
    count, rest = divmod(d_R * fold, K)
    if rest or K // 2 % fold or not 0 < count <= G * fold or d_R >= n:
      continue
    found = []
    for first in range(0, K // 2, fold):
      at = np.arange(G)[:, None] * K + np.arange(first, first + fold)
      _, mixes = _components(layer, at.reshape(-1), K)
      found += [(first + fold // 2, at.reshape(-1), x) for x in mixes[:count]]
    yield _with_rest(layer, _rotating(layer, found), n, layer.inputs, True)


def mha2mla(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Lets each head's largest planes rotate (MHA2MLA, arXiv 2502.14837).

  A plane contributes the norm of its queries times that of its keys. The others
  stop rotating, and get an SVD with the values: of the weights alone.
  """
  G, K = layer.queries.shape[:2]
  count, rest = divmod(d_R, 2 * G)
  if rest or not 0 < count <= K // 2 or d_R >= n:
    return
  found = []
  for g, query in enumerate(layer.queries):
    k = layer.key(g)
    sizes = np.diag(query), np.diag(layer.inputs)[k]
    energy = np.prod([x.reshape(2, -1).sum(0) for x in sizes], 0)
    most = np.argsort(-energy, kind='stable')[:count]
    found += [(i, k[[i]], np.ones(1)) for i in most]
  yield _with_rest(layer, _rotating(layer, found), n, layer.weights, False)


def svd(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Keeps keys that have not rotated yet: a joint low rank of keys and values.

  The directions that queries and the output projection need most; `layer` is
  one `at_rest`.
  """
  if d_R:  # there is no such part
    return
  targets = [
    layer.at(layer.key(g), cp.root(query)[0])
    for g, query in enumerate(layer.queries)
  ]
  kept = _directions(layer, targets + _values(layer), n)
  yield _read(layer, Cache(kept, ()))


METHODS = dict(planes=planes, transmla=transmla, mha2mla=mha2mla, svd=svd)


def at_rest(layer: Layer) -> Layer:
  """Makes the same layer as one whose keys rotate when they are read."""
  every = range(layer.lags.planes)
  turned = [layer.lags.moments(x, every, every, -1) for x in layer.queries]
  still = Lags(1, np.zeros(layer.lags.planes))
  return layer._replace(queries=np.stack(turned), lags=still)


def _components(layer, at, K, weights=1.0):
  """PCA of planes of u, as complex numbers: sizes, and mixes of the planes.

  Args:
    at: places of the planes' real parts, [P]; the imaginary ones are K / 2 on.
    weights: of the planes, [P].

  Returns:
    [P], [P, P]: component j is sum_p mix_jp u_p.
  """
  seen = (layer.root[:, at] + 1j * layer.root[:, at + K // 2]) * weights
  _, sizes, right = np.linalg.svd(seen, full_matrices=False)
  return sizes, right.conj() * weights


def _rotating(layer, found):
  """Makes a Cache of components (plane whose rate it has, at, mix)."""
  K, half = layer.queries.shape[1], len(found)
  kept = np.zeros((len(layer.inputs), 2 * half))
  found = sorted(found, key=lambda x: x[0])
  for j, (_, at, mix) in enumerate(found):
    kept[at, j], kept[at + K // 2, j] = mix.real, -mix.imag
    kept[at, j + half], kept[at + K // 2, j + half] = mix.imag, mix.real
  return Cache(kept, tuple(int(i) for i, *_ in found))


def _with_rest(layer, cache, n, inputs, balanced):
  """Adds a latent of n - d_R scalars, of values and keys that stop rotating.

  Args:
    cache: a Cache of orthonormal components.
    inputs: the moments that the directions are to fit.
    balanced: whether keys are scaled to the size of the values.
  """
  (G, K), keys = layer.queries.shape[:2], len(inputs) // 2
  turned = cache.kept
  rest = np.eye(len(inputs)) - turned @ turned.T
  seen, scale = rest.T @ inputs @ rest, np.ones(len(inputs))
  key, value = np.split(np.diag(seen), 2)
  if balanced and key.sum() > 0:
    scale[:keys] = np.sqrt(value.sum() / key.sum())
  right = _leading(scale[:, None] * seen * scale, n - turned.shape[1]).T
  up = right / scale  # z = u rest scale right^T, and u ~ z right / scale
  readers = np.concatenate([up[:, :keys], turned[:keys].T]).T
  return cache._replace(
    kept=np.concatenate([rest * scale @ right.T, turned], 1),
    keys=readers.reshape(G, K, -1),
    values=up[:, keys:].T.reshape(G, K, -1),
  )


def _directions(layer, targets, r):
  """Finds the r directions of u, [N, r], that maps [N, *] of it need most."""
  maps = np.concatenate(targets, 1)
  return maps @ _leading(maps.T @ layer.inputs @ maps, r)


def _leading(x, r):
  """Returns the r leading eigenvectors of symmetric x [N, N], [N, r]."""
  return np.linalg.eigh(x)[1][:, ::-1][:, :r]


def _values(layer):
  """The values as maps of u, weighted by the output projection."""
  return [
    layer.at(layer.value(g), cp.root(out)[0])
    for g, out in enumerate(layer.outputs)
  ]


def _averaged(layer, x, planes):
  """Averages R x over the lags, for x [K, *] of these planes."""
  real, imaginary = np.split(x, 2)
  z = (real + 1j * imaginary) * layer.lags.mean(planes)[:, None]
  return np.concatenate([z.real, z.imag])
