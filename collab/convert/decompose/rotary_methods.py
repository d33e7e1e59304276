# SPDX-License-Identifier: Apache-2.0
"""The methods that choose a small cache of rotated keys.

Each takes a Layer, n scalars, of which d_R rotate, and yields the Caches that
it can make.
"""

from collections.abc import Iterator

import numpy as np

from collab.convert.decompose import cp
from collab.convert.decompose.rotary_cache import Cache, Layer, read

FOLDS = 1, 2, 4, 8  # neighbouring planes that TransMLA takes for one


def planes(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Rotates what queries see most and what turns most; the latent has the rest.

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
  cache = read(layer, _rotating(layer, [x[1:] for x in found]))
  kept = _averaged(layer, cache.kept.T, cache.planes)
  own = _averaged(layer, np.eye(K), range(K // 2))
  targets = [
    (layer.at(layer.key(g), own.T) - (a @ kept).T) @ cp.root(query)[0]
    for g, (a, query) in enumerate(zip(cache.keys, layer.queries, strict=True))
  ]
  latent = _directions(layer, targets + _values(layer), n - d_R)
  yield read(
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
  one at rest, `rotary_cache.at_rest`.
  """
  if d_R:  # there is no such part
    return
  targets = [
    layer.at(layer.key(g), cp.root(query)[0])
    for g, query in enumerate(layer.queries)
  ]
  kept = _directions(layer, targets + _values(layer), n)
  yield read(layer, Cache(kept, ()))


def pca(layer: Layer, n: int, d_R: int) -> Iterator[Cache]:
  """Likewise, by a PCA of keys, scaled to the size of the values, and these.

  Queries and outputs have no say.
  """
  if d_R:
    return
  nothing = Cache(np.zeros((len(layer.inputs), 0)), ())
  yield _with_rest(layer, nothing, n, layer.inputs, True)


METHODS = dict(planes=planes, svd=svd, transmla=transmla)
METHODS |= dict(pca=pca, mha2mla=mha2mla)
FITTED = 'planes', 'svd'  # ours, whose error `rotary_cache.fitted` makes least
RESTS = 'svd', 'pca'  # their keys rotate when they are read


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
