# SPDX-License-Identifier: Apache-2.0
"""Turns attention whose queries and keys rotate into mla, for a smaller cache.

`rotary_cache` has the formulas, `rotary_methods` what chooses the cache.
Axes: D model, H heads, G groups of heads that share keys, K width of a head.
"""

from collections.abc import Mapping

import numpy as np

from collab import checks
from collab.attention.rope import Rope
from collab.convert.decompose import layers, rotary_cache
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha
from collab.convert.decompose.rotary_methods import FITTED, METHODS, RESTS

SHARES = 1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2, 7 / 12  # of a cache, may rotate


def mla(
  mha: Mha,
  moments: Moments,
  rope: Rope,
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
    cache_size: n, scalars of a token.
    rope_dim: d_R; by default that of SHARES with the least error.
    method: one of METHODS.
  """
  G, K = mha.key.shape[1:]
  checks.one_of('method', method, METHODS)
  checks.within('cache_size', cache_size, 4, 2 * G * K)
  layer = rotary_cache.layer_of(mha, moments, rope)
  turning = {max(2, 2 * round(cache_size * share / 2)) for share in SHARES}
  if method in RESTS:
    layer, turning = rotary_cache.at_rest(layer), {0}
  turning = [rope_dim] if rope_dim else sorted(turning)
  make = METHODS[method]
  found = [x for d_R in turning for x in make(layer, cache_size, d_R)]
  if not found:
    raise ValueError(
      f'method={method} with cache_size={cache_size} can rotate none of '
      f'rope_dim={turning}, of {G} key heads with {K // 2} planes.'
    )
  of = lambda x: rotary_cache.error(layer, x)
  best = min(found, key=of)
  if method in FITTED:
    best = min(best, rotary_cache.fitted(layer, best), key=of)
  return _tree(mha, moments, rope, best)


def gqa(
  mha: Mha, moments: Moments, rope: Rope, *, kv_heads: int
) -> tuple[dict, dict]:
  """Averages keys and values of groups of heads (arXiv 2305.13245)."""
  del rope
  repeats = mha.query.shape[1] // mha.key.shape[1]
  whole = mha._replace(
    key=mha.key.repeat(repeats, 1), value=mha.value.repeat(repeats, 1)
  )
  how = dict(kv_heads=kv_heads, pooling='mean')
  return layers.gqa(whole, moments, **how), dict(kv_heads=kv_heads)


VARIANTS = dict(gqa=gqa, mla=mla)


def check(fields: Mapping) -> None:
  """Refuses fields of `mla` that cannot be, before anything is computed."""
  for key, given in fields.items():
    for x in given if isinstance(given, tuple) else (given,):
      if key == 'method':
        checks.one_of(key, x, METHODS)
      if key == 'rope_dim' and (x < 0 or x % 2):
        raise ValueError(f'rope_dim={x}; expected an even number, at least 0.')


def check_budget(kind: str, most: float, name: str, fields: Mapping) -> None:
  """Refuses a budget that cannot be one, before anything is computed."""
  if isinstance(most, float) and not 0 < most <= 1:
    raise ValueError(
      f'budget {kind}={most}; expected a whole number, or a share above 0, at '
      'most 1.0.'
    )
  if (kind, name) != ('cache', 'mla') or 'cache_size' in fields:
    raise ValueError(
      f'budget={kind}={most} with {name}: of attention with rotary positions '
      'expected cache=N of mla, without cache_size.'
    )


def _tree(mha, moments, rope, cache):
  """Makes the tree of an mla of a Cache, and its fields."""
  (D, H, K), G = mha.query.shape, mha.key.shape[1]
  r, each = cache.latent, H // G
  kept = np.concatenate([mha.key, mha.value], 1).reshape(D, -1) @ cache.kept
  kept, a, u = _balanced(kept, cache)
  a, u = a.repeat(each, 0), u.repeat(each, 0)
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
  seen = moments.attended
  mean = np.tile(moments.y_mean, (H, 1)) if seen is None else seen.mean
  lost = np.einsum('hd,dhk,hke->e', mean, lost, mha.out)
  tree = more | dict(
    query=dict(kernel=query, bias=bias),
    latent=dict(kernel=kept[:, :r]),
    key_up=dict(kernel=a[..., :r].transpose(2, 0, 1)),
    value_up=dict(kernel=u.transpose(2, 0, 1)),
    out=dict(kernel=mha.out, bias=mha.bias + lost),
  )
  return tree, fields


def _balanced(kept, cache):
  """Makes the columns that are kept as long as those that read them.

  Else one may be a hundred thousand times as long as the other, and Adam, whose
  steps have one size for both, does not train such a model but ruins it.

  Args:
    kept: [D, n].
    cache: Cache.

  Returns:
    New ones of `kept`, and of the cache's keys and values.
  """
  (G, K, _), r = cache.keys.shape, cache.latent
  readers = np.concatenate([cache.keys[..., :r], cache.values], 1)
  left, x = np.linalg.qr(kept[:, :r])
  right, y = np.linalg.qr(readers.reshape(2 * G * K, r))
  z, sizes, w = np.linalg.svd(x @ y.T, full_matrices=False)
  # A rank below r leaves columns of zeros.
  wide = lambda x: np.pad(x * np.sqrt(sizes), ((0, 0), (0, r - len(sizes))))
  latent, readers = wide(left @ z), wide(right @ w.T).reshape(G, 2 * K, r)
  turned, reads = kept[:, r:], cache.keys[..., r:]
  square = lambda x: np.sum(
    np.split((x**2).sum(tuple(range(x.ndim - 1))), 2), 0
  )
  a, b = square(turned), square(reads)
  ratio = np.divide(b, a, out=np.ones(len(a)), where=a * b > 0)
  scale = np.tile(ratio**0.25, 2)
  return (
    np.concatenate([latent, turned * scale], 1),
    np.concatenate([readers[:, :K], reads / scale], 2),
    readers[:, K:],
  )
