# SPDX-License-Identifier: Apache-2.0
"""Turns a multi-head attention layer into a layer of another variant.

    s_h = (x Wq_h + bq_h) . (y Wk_h),   out = sum_h (p_h y) Wv_h Wo_h + b

p are the weights. Biases of keys do not change the weights and are left out.
Since the weights sum to one, constants in the values move to b without loss:
their biases, and the error of a fit for the mean input.

Each public conversion takes an `Mha` and the Moments of its inputs, and returns
the tree that the variant's `init` gives. Axes: D model, H heads, G groups of
heads, K width of a head, N = H K.
"""

import numpy as np

from collab import checks
from collab.attention.variants.collab import LEGAL
from collab.convert.decompose import cp, values
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha


def effects(mha: Mha, moments: Moments) -> np.ndarray:
  """Measures the effect of each head's weights on the output, [H].

    |S Wv_h Wo_h|, where S S is the covariance of the values' input

  The minimum is a tenth of the heads' mean square, because a head with a small
  effect now may learn a larger one.
  """
  s, _ = cp.root(moments.y_within)
  value = np.einsum('de,ehk->hdk', s, mha.value)
  size = np.linalg.norm(value @ mha.out, axis=(1, 2))
  return np.maximum(size, 0.1 * np.sqrt((size**2).mean()) or 1.0)


def grams(mha: Mha, moments: Moments, bias: str = 'content') -> tuple:
  """Computes the inputs of `cp.decompose`: E[q q^T] and E[k k^T], [N, N].

  Queries are multiplied by the effects of their heads. Keys are centred on the
  mean of their row. With bias='content', queries are centred on their mean.

  Raises:
    ValueError: there is no such bias.
  """
  checks.one_of('bias', bias, LEGAL['bias'])
  D, H, K = mha.query.shape
  wq, wk = mha.query.reshape(D, -1), mha.key.reshape(D, -1)
  gram = wq.T @ moments.x_cov @ wq
  if bias != 'content':
    q = moments.x_mean @ wq
    q += mha.query_bias.reshape(-1) if bias == 'shared' else 0
    gram += np.outer(q, q)
  a = np.repeat(effects(mha, moments), K)
  return a[:, None] * gram * a, wk.T @ moments.y_within @ wk


def collab(
  mha: Mha,
  moments: Moments,
  *,
  shared_dim: int,
  bias: str = 'content',
  sweeps: int = 100,
) -> dict:
  """Decomposes Wq_h Wk_h^T ~ U diag(m_h) V^T (see `cp`); values are unchanged.

  bias='content' also absorbs the error of the fit for the mean input, so that
  only deviations from the mean have to be fitted:

    c_h = Wk_h bq_h + (Wq_h Wk_h^T - U diag(m_h) V^T)^T E[x]

  With 'shared' the bias is fitted together with the rest.
  """
  D, H, K = mha.query.shape
  wq, wk = mha.query.reshape(D, -1), mha.key.reshape(D, -1)
  mean, b = moments.x_mean, mha.query_bias.reshape(-1)
  found = cp.decompose(*grams(mha, moments, bias), H, shared_dim, sweeps)
  # The effects move from the queries to the mixing; its largest weights stay 1.
  a = effects(mha, moments)
  m = found.mixing / a[:, None]
  top = np.maximum(np.abs(m).max(0), 1e-30)
  x, m = found.query * np.repeat(a, K)[:, None] * top, m / top
  u, v = wq @ x, wk @ found.key
  new = dict(query=dict(kernel=u), key=dict(kernel=v), mixing=m)
  if bias == 'content':
    exact = (mean @ wq + b).reshape(H, K)
    c = np.einsum('dhk,hk->dh', mha.key, exact) - v @ ((mean @ u) * m).T
    new['content_bias'] = dict(kernel=c)
  elif bias == 'shared':
    new |= dict(query=_dense(u, b @ x), key=_dense(v))
  return new | dict(value=_dense(mha.value), out=_dense(mha.out, mha.bias))


def gqa(
  mha: Mha, moments: Moments, *, kv_heads: int, pooling: str = 'svd'
) -> dict:
  """Merges the keys and values of each group of heads into one head's width.

  pooling='svd' is optimal for the scores and values of unlike heads. It keeps
  the K directions of the keys' input, weighted by covariance, that the queries
  of the group look at most, and re-expresses each head's queries in them.
  Values and output projection are treated likewise. 'mean' averages the heads
  (arXiv 2305.13245), which suits further training.
  """
  D, H, K = mha.query.shape
  if kv_heads < 1 or H % kv_heads:
    raise ValueError(f'kv_heads={kv_heads} does not divide num_heads={H}.')
  checks.one_of('pooling', pooling, ('svd', 'mean'))
  _same_width(mha)
  if pooling == 'mean':
    mean = lambda w: w.reshape(D, kv_heads, -1, K).mean(2)
    query, query_bias, key = mha.query, mha.query_bias, mean(mha.key)
    value, out, bias = mean(mha.value), mha.out, mha.bias
  else:
    query, query_bias, key = _group_keys(mha, moments, kv_heads)
    value, out, bias = _group_values(mha, moments, kv_heads)
  new = dict(query=_dense(query, query_bias), key=_dense(key))
  return new | dict(value=_dense(value), out=_dense(out, bias))


def mha(
  mha: Mha, moments: Moments, *, num_heads: int = 0, key_features: int = 0
) -> dict:
  """Prunes heads (see `values.pruned`), and lowers the rank of their scores.

  Of each head that stays, the scores keep as many components as its keys are
  wide: with G the second moments of queries and keys, the leading ones of
  Gq^1/2 Gk^1/2. By default, 0, nothing changes.
  """
  _, H, K = mha.query.shape
  if num_heads:
    checks.within('num_heads', num_heads, 1, H)
    mha, H = values.pruned(mha, moments, num_heads), num_heads
  if key_features:
    width, rest = divmod(key_features, H)
    if rest or not 1 <= width <= K:
      raise ValueError(
        f'key_features={key_features}; expected a multiple of num_heads={H}, '
        f'at most {H * K}.'
      )
    mha = _narrow_keys(mha, moments, width)
  return dict(
    query=_dense(mha.query, mha.query_bias),
    key=_dense(mha.key),
    value=_dense(mha.value),
    out=_dense(mha.out, mha.bias),
  )


def _narrow_keys(mha, moments, width):
  """Returns the Mha with queries and keys [D, H, width]."""
  gram = np.einsum('dhk,de,ehl->hkl', mha.key, moments.y_within, mha.key)
  root, inverse = cp.root(gram)
  of_queries, _ = cp.root(_query_moments(mha, moments))
  _, s, v = np.linalg.svd(of_queries @ root)
  v, s = v[:, :width].swapaxes(1, 2), np.sqrt(np.maximum(s, 1e-30))
  s = s[:, None, :width]  # makes queries and keys equally large
  x, y = root @ v / s, inverse @ v * s
  return mha._replace(
    query=np.einsum('dhk,hkl->dhl', mha.query, x),
    query_bias=np.einsum('hk,hkl->hl', mha.query_bias, x),
    key=np.einsum('dhk,hkl->dhl', mha.key, y),
  )


def mhe_mul(
  mha: Mha, moments: Moments, *, offset: float = 1.0, sweeps: int = 100
) -> dict:
  """Decomposes the scores at one head's width, and merges values like MQA.

  The mixing row m_h is offset + eq_h, and the other embeddings are ones. The
  query bias takes part in the decomposition, but one bias serves all heads.
  """
  D, H, K = mha.query.shape
  _same_width(mha)
  shared = collab(mha, moments, shared_dim=K, bias='shared', sweeps=sweeps)
  value, out, bias = _group_values(mha, moments, 1)
  ones = np.full((H, K), 1 - offset)
  return dict(
    query=shared['query'],
    key=shared['key'],
    query_embedding=shared['mixing'] - offset,
    key_embedding=ones,
    value=_dense(value[:, 0]),
    value_embedding=ones,
    out=_dense(out, bias),
  )


def mla(mha: Mha, moments: Moments, *, latent_dim: int) -> dict:
  """Keeps the r directions of the input that keys and values need most.

  Keys are weighted by the queries that look at them, values by the output
  projection, both as shares of their total. The result is exact where r is the
  rank of the two together, at most D.
  """
  D, H, K = mha.query.shape
  checks.within('latent_dim', latent_dim, 1, D)
  _same_width(mha)
  s, inverse = cp.root(moments.y_cov)
  parts = [
    np.einsum('dhk,hkl->dhl', w, root).reshape(D, -1)
    for w, root in (
      (mha.key, cp.root(_query_moments(mha, moments))[0]),
      (mha.value, cp.root(np.einsum('hkd,hld->hkl', mha.out, mha.out))[0]),
    )
  ]
  parts = [s @ x / max(np.linalg.norm(s @ x), 1e-30) for x in parts]
  e = _directions(np.concatenate(parts, 1), latent_dim)
  latent, up = inverse @ e, e.T @ s
  key, value = (np.einsum('rd,dhk->rhk', up, w) for w in (mha.key, mha.value))
  lost = moments.y_mean - moments.y_mean @ latent @ up
  lost = np.einsum('d,dhk,hke->e', lost, mha.value, mha.out)
  return dict(
    query=_dense(mha.query, mha.query_bias),
    latent=dict(kernel=latent),
    key_up=dict(kernel=key),
    value_up=dict(kernel=value),
    out=_dense(mha.out, mha.bias + lost),
  )


VARIANTS = dict(collab=collab, gqa=gqa, mha=mha, mhe_mul=mhe_mul, mla=mla)


def _dense(kernel, bias=None):
  """Makes the parameters of a projection; a missing bias becomes zeros."""
  bias = np.zeros(kernel.shape[1:]) if bias is None else bias
  return dict(kernel=kernel, bias=bias)


def _same_width(mha):
  K, V = mha.query.shape[2], mha.value.shape[2]
  if K != V:
    raise ValueError(
      f'Heads have keys of width {K} and values of width {V}; only collab and '
      'mha take those.'
    )


def _query_moments(mha, moments):
  """E[q_h q_h^T] of queries times the effects of their heads, [H, K, K]."""
  cov = np.einsum('de,ehk->dhk', moments.x_cov, mha.query)
  cov = np.einsum('dhk,dhl->hkl', mha.query, cov)
  q = np.einsum('d,dhk->hk', moments.x_mean, mha.query) + mha.query_bias
  effect = effects(mha, moments)[:, None, None]
  return effect**2 * (cov + q[:, :, None] * q[:, None])


def _group_keys(mha, moments, G):
  """Merges keys; returns queries [D, H, K], biases [H, K], keys [D, G, K].

  See `_merge`, with R_h R_h^T = E[q_h q_h^T] for queries multiplied by the
  effects of their heads. Each head's queries are re-expressed in the directions
  of its group.
  """
  roots, _ = cp.root(_query_moments(mha, moments))
  key, turn = _merge(mha.key, roots, moments.y_within, G)
  query = np.einsum('dhk,hkl->dhl', mha.query, turn)
  return query, np.einsum('hk,hkl->hl', mha.query_bias, turn), key


def _group_values(mha, moments, G):
  """Merges values [D, G, V]; also returns the output [H, V, Dout] and its bias.

  See `_merge`, with R_h R_h^T = Wo_h Wo_h^T.
  """
  H, _, _ = mha.out.shape
  roots, _ = cp.root(np.einsum('hkd,hld->hkl', mha.out, mha.out))
  value, turn = _merge(mha.value, roots, moments.y_cov, G)
  out = np.einsum('hkl,hkd->hld', turn, mha.out)
  mean = lambda w: np.einsum('d,dhk->hk', moments.y_mean, w)
  lost = np.einsum('hk,hkd->d', mean(mha.value), mha.out) - np.einsum(
    'hk,hkd->d', np.repeat(mean(value), H // G, 0), out
  )
  return value, out, mha.bias + lost


def _merge(w, roots, cov, G):
  """Finds one projection for each group, and how to express each head in it.

  With S S = cov, E has the K leading left singular vectors of all S W_h R_h in
  a group. The projection is S^-1 E, and (S W_h)^T E re-expresses a head.

  Returns:
    [D, G, K], [H, K, K].
  """
  D, H, K = w.shape
  s, inverse = cp.root(cov)
  a = np.einsum('de,ehk->dhk', s, w)
  seen = np.einsum('dhk,hkl->dhl', a, roots)
  e = np.stack([_directions(x, K) for x in np.split(seen, G, 1)])
  turn = np.einsum('dhk,hdl->hkl', a, np.repeat(e, H // G, 0))
  return np.einsum('de,gek->dgk', inverse, e), turn


def _directions(x, n):
  """Returns the n leading left singular vectors, [D, n], of [D, ...]."""
  x = x.reshape(len(x), -1)
  return np.linalg.svd(x, full_matrices=x.shape[1] < n)[0][:, :n]
