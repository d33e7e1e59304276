# SPDX-License-Identifier: Apache-2.0
"""Canonical decomposition of the heads' score matrices.

    Wq_h Wk_h^T  ~  U diag(m_h) V^T,   U = Wq X,  V = Wk Y,   h = 1..H

least squares in the norm that Gram matrices of the projections define: with
Wq^T Wq and Wk^T Wk it is Frobenius', with Wq^T C Wq, where C is the second
moment of the layer's inputs, it is the mean square of the scores' error. Both
factors lie in the span of the projections, so that nothing here is as large as
D x H x D, and the weighting by C has not to be undone.

Axes: H heads, K width of a head, N = H K, k columns of the factors.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from collab.attention.variants import collab

_RIDGE = 1e-6  # of a matrix with unit diagonal; float32 needs about that


class Factors(NamedTuple):
  """A decomposition and how it came about.

  Attributes:
    query: X, float32 [N, k].
    key: Y, float32 [N, k].
    mixing: m, float32 [H, k].
    error: sqrt(sum_h |A_h - U diag(m_h) V^T|^2 / sum_h |A_h|^2).
    sweeps: float32 [sweeps], that after each sweep as float32 sees it, which
      below 1e-3 is rounding.
  """

  query: np.ndarray
  key: np.ndarray
  mixing: np.ndarray
  error: float
  sweeps: np.ndarray


def decompose(query_gram, key_gram, heads, rank, sweeps=100) -> Factors:
  """Alternating least squares from the heads' own SVDs. Nothing is random.

  No sweep makes the error larger. With rank N it is 0, by X = Y = I and blocks
  of ones.

  Args:
    query_gram: Wq^T C Wq, [N, N].
    key_gram: likewise of the keys.
    heads: H, divides N.
    rank: k, 1 to N.
    sweeps: each solves for X, Y and m once.

  Raises:
    ValueError: rank or sweeps out of range, or a Gram matrix is not finite.
  """
  N = len(query_gram)
  if not 1 <= rank <= N:
    raise ValueError(
      f'Key width {rank}; expected 1 to {N}, with which nothing is lost.'
    )
  if sweeps < 0:
    raise ValueError(f'{sweeps} sweeps; expected 0 or more.')
  grams = [np.asarray(g, np.float64) for g in (query_gram, key_gram)]
  if not all(np.isfinite(g).all() for g in grams):
    raise ValueError('The projections or their inputs are not finite.')
  if rank == N:
    m = np.asarray(collab.concatenate(None, (heads, N)))
    one = np.eye(N, dtype=np.float32)
    return Factors(one, one, m, 0.0, np.zeros(sweeps, np.float32))
  # Float32 has no room for products of small Gram matrices: to unit diagonals.
  scales = [np.sqrt(np.trace(g) / N) or 1.0 for g in grams]
  grams = [g / s**2 for g, s in zip(grams, scales, strict=True)]
  x, y, m = (f.astype(np.float32) for f in initial(*grams, heads, rank))
  errors = np.zeros(0)
  if sweeps:
    small = [g.astype(np.float32) for g in grams]
    found, errors = _alternate(*small, x, y, m, sweeps)
    x, y, m = (np.asarray(f) for f in found)
  left = error(*grams, x, y, m)
  return Factors(x / scales[0], y / scales[1], m * np.prod(scales), left, errors)


def initial(query_gram, key_gram, heads, rank):
  """The `rank` largest components of all heads' own SVDs: X, Y, m."""
  N = len(query_gram)
  K = N // heads
  x, y, m = np.zeros((N, N)), np.zeros((N, N)), np.zeros((heads, N))
  for h in range(heads):
    own = slice(h * K, (h + 1) * K)
    root_q, undo_q = root(query_gram[own, own])
    root_k, undo_k = root(key_gram[own, own])
    u, s, vt = np.linalg.svd(root_q @ root_k)
    x[own, own], y[own, own], m[h, own] = undo_q @ u, undo_k @ vt.T, s
  best = np.sort(np.argsort(-m.max(0), kind='stable')[:rank])
  return x[:, best], y[:, best], m[:, best]


def root(gram):
  """The square root of a Gram matrix and its pseudo-inverse, [N, N] each."""
  values, vectors = np.linalg.eigh(gram)
  values = np.sqrt(np.maximum(values, 0))
  kept = values > 1e-7 * values[-1]
  inverse = np.where(kept, 1 / np.where(kept, values, 1), 0)
  return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T


def error(query_gram, key_gram, x, y, m):
  """sqrt(sum_h |A_h - U diag(m_h) V^T|^2 / sum_h |A_h|^2), in float64."""
  H, k = m.shape
  x, y, m = (np.asarray(f, np.float64) for f in (x, y, m))
  pu, pv = query_gram @ x, key_gram @ y
  inner = (pu * pv).reshape(H, -1, k).sum(1)
  gram = (x.T @ pu) * (y.T @ pv)
  whole = _square(query_gram, key_gram, H)
  left = whole - 2 * (inner * m).sum() + ((m @ gram) * m).sum()
  return float(np.sqrt(max(left, 0) / whole)) if whole else 0.0


def _square(query_gram, key_gram, H):
  """sum_h |A_h|^2 = sum_h <Gq_hh, Gk_hh>."""
  K = len(query_gram) // H
  q, k = (g.reshape(H, K, H, K) for g in (query_gram, key_gram))
  return sum((q[h, :, h] * k[h, :, h]).sum() for h in range(H))


class _State(NamedTuple):
  """A point of the iteration: X follows from the others."""

  x: jax.Array  # [N, k]
  y: jax.Array  # [N, k]
  m: jax.Array  # [H, k]
  pv: jax.Array  # Gk Y, [N, k]


@functools.partial(jax.jit, static_argnames='sweeps')
def _alternate(query_gram, key_gram, x, y, m, sweeps):
  """X, Y, m after the sweeps, and the error after each.

  A sweep starts beyond the last point, in the direction of the last step; if
  the error grows it is taken back and the next one starts at the last point.
  (Nesterov's momentum with restarts for ALS, arXiv 1810.05846.)
  """
  H, k = m.shape
  K = len(query_gram) // H
  whole = _square(query_gram, key_gram, H)
  rows = lambda m: jnp.repeat(m, K, 0)

  def step(y, m, pv):
    x = _solve((m.T @ m) * (y.T @ pv), pv * rows(m))
    pu = query_gram @ x
    uu = x.T @ pu
    y = _solve((m.T @ m) * uu, pu * rows(m))
    pv = key_gram @ y
    inner = (pu * pv).reshape(H, K, k).sum(1)
    vv = y.T @ pv
    m = _solve(uu * vv, inner)
    left = whole - 2 * (inner * m).sum() + ((m @ (uu * vv)) * m).sum()
    # Columns of one length in U and V: their scales are free.
    u, v = jnp.sqrt(jnp.diag(uu))[None], jnp.sqrt(jnp.diag(vv))[None]
    new = _State(x / u, y / v, m * u * v, pv / v)
    return new, jnp.sqrt(jnp.maximum(left, 0) / whole)

  def sweep(carry, _):
    now, start, momentum, best = carry
    new, error = step(start.y, start.m, start.pv)
    good = error <= best
    ahead = jax.tree.map(lambda a, b: a + momentum * (a - b), new, now)
    now, start = (
      jax.tree.map(lambda a, b: jnp.where(good, a, b), *pair)
      for pair in ((new, now), (ahead, now))
    )
    momentum = jnp.where(good, jnp.minimum(momentum + 0.1, 0.9), 0.0)
    best = jnp.where(good, error, best)
    return (now, start, momentum, best), best

  now = _State(x, y, m, key_gram @ y)
  carry = now, now, jnp.float32(0), jnp.float32(jnp.inf)
  (now, *_), errors = lax.scan(sweep, carry, None, length=sweeps)
  return (now.x, now.y, now.m), errors


def _solve(gram, right):
  """right gram^-1 of a Gram matrix, [n, k] of [k, k] and [n, k]."""
  scale = lax.rsqrt(jnp.maximum(jnp.diag(gram), jnp.finfo(gram.dtype).tiny))
  gram = gram * scale[:, None] * scale[None] + _RIDGE * jnp.eye(len(gram))
  factor = jax.scipy.linalg.cho_factor(gram)
  found = jax.scipy.linalg.cho_solve(factor, (right * scale[None]).T)
  return found.T * scale[None]
