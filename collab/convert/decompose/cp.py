# SPDX-License-Identifier: Apache-2.0
"""Canonical decomposition of the heads' score matrices, by least squares.

    Wq_h Wk_h^T  ~  U diag(m_h) V^T,   U = Wq X,  V = Wk Y,   h = 1..H

The norm of the error is defined by Gram matrices of the projections. With Wq^T
Wq and Wk^T Wk it is the Frobenius norm. With Wq^T C Wq, where C is the second
moment of the layer's inputs, it is the mean squared error of the scores. Both
factors lie in the span of the projections, so no array is as large as
D x H x D, and the weighting by C need not be undone.

Axes: H heads, K width of a head, N = H K, k columns of the factors.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from threadpoolctl import ThreadpoolController

from collab import checks
from collab.attention.variants.collab import concatenate

# Relative to a matrix of unit diagonal; just enough for its Cholesky factor.
_DAMPING = {np.float32: 1e-5, np.float64: 1e-12}
# float32 cannot measure smaller errors: it has their squares to about 1e-6.
_FLOOR = {np.float32: 1e-2, np.float64: 0.0}
_TINY = 1e-30

# The BLAS of NumPy and that of SciPy have separate threads, which wait for work
# by spinning. A sweep alternates between the two; with two threads each it was
# 3 times slower than with one.
one_thread = ThreadpoolController().wrap(limits=1, user_api='blas')


class Factors(NamedTuple):
  """A decomposition and the errors of its sweeps, in float64.

  In each column the largest mixing weight is 1, and U and V are equally long.

  Attributes:
    query: X, [N, k].
    key: Y, [N, k].
    mixing: m, [H, k].
    error: sqrt(sum_h |A_h - U diag(m_h) V^T|^2 / sum_h |A_h|^2).
    sweeps: error after each sweep, [sweeps]; fewer if no gain is left.
  """

  query: np.ndarray
  key: np.ndarray
  mixing: np.ndarray
  error: float
  sweeps: np.ndarray


@one_thread
def decompose(
  query_gram: np.ndarray,
  key_gram: np.ndarray,
  heads: int,
  rank: int,
  sweeps: int = 100,
) -> Factors:
  """Decomposes by alternating least squares, starting from the heads' SVDs.

  The result is deterministic, and no sweep increases the error. With rank N the
  error is 0, by X = Y = I and blocks of ones.

  Args:
    query_gram: Wq^T C Wq, [N, N].
    key_gram: the same for the keys.
    heads: H, divides N.
    rank: k, 1 to N.
    sweeps: number of sweeps; each solves for X, Y and m once.

  Raises:
    ValueError: rank or sweeps out of range, or a Gram matrix is not finite.
  """
  N = len(query_gram)
  if not 1 <= rank <= N:
    raise ValueError(
      f'Key width {rank}; expected 1 to {N}, with which nothing is lost.'
    )
  checks.at_least('sweeps', sweeps, 0)
  grams = [np.asarray(g, np.float64) for g in (query_gram, key_gram)]
  if not all(np.isfinite(g).all() for g in grams):
    raise ValueError('The projections or their inputs are not finite.')
  if rank == N:
    m = np.asarray(concatenate(None, (heads, N)), np.float64)
    return Factors(np.eye(N), np.eye(N), m, 0.0, np.zeros(sweeps))
  # Unit diagonals: products of small Gram matrices would underflow in float32.
  scales = [np.sqrt(np.trace(g) / N) or 1.0 for g in grams]
  unit = [g / s**2 for g, s in zip(grams, scales, strict=True)]
  x, y, m = initial(*unit, heads, rank)
  errors = []
  for dtype in (np.float32, np.float64):
    x, y, m, more = _alternate(*unit, x, y, m, sweeps - len(errors), dtype)
    errors += more
  left = error(*unit, x, y, m)
  x, y, m = _balance(x, y, m, scales[1] / scales[0])
  return Factors(x, y, m, left, np.asarray(errors))


def initial(
  query_gram: np.ndarray, key_gram: np.ndarray, heads: int, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Takes the `rank` largest components of all heads' own SVDs: X, Y, m."""
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


def root(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Computes roots of Gram matrices and their pseudo-inverses, [..., N, N]."""
  values, vectors = np.linalg.eigh(gram)
  values = np.sqrt(np.maximum(values, 0))[..., None, :]
  kept = values > 1e-7 * values[..., -1:]
  inverse = np.divide(1, values, out=np.zeros_like(values), where=kept)
  transposed = vectors.swapaxes(-1, -2)
  return (vectors * values) @ transposed, (vectors * inverse) @ transposed


def error(
  query_gram: np.ndarray,
  key_gram: np.ndarray,
  x: np.ndarray,
  y: np.ndarray,
  m: np.ndarray,
) -> float:
  """Computes sqrt(sum_h |A_h - U diag(m_h) V^T|^2 / sum_h |A_h|^2)."""
  H, k = m.shape
  pu, pv = query_gram @ x, key_gram @ y
  inner = (pu * pv).reshape(H, -1, k).sum(1)
  gram = (x.T @ pu) * (y.T @ pv)
  whole = square(query_gram, key_gram, H)
  left = whole - 2 * (inner * m).sum() + ((m @ gram) * m).sum()
  return float(np.sqrt(max(left, 0) / max(whole, _TINY)))


def square(query_gram: np.ndarray, key_gram: np.ndarray, H: int) -> float:
  """Computes sum_h |A_h|^2 = sum_h <Gq_hh, Gk_hh>."""
  K = len(query_gram) // H
  q, k = (g.reshape(H, K, H, K) for g in (query_gram, key_gram))
  return float(sum((q[h, :, h] * k[h, :, h]).sum() for h in range(H)))


def _alternate(query_gram, key_gram, x, y, m, sweeps, dtype):
  """Returns X, Y, m after the sweeps, and the error after each sweep.

  A sweep starts beyond the last point, in the direction of the last step. If
  the error grows, the step is undone and the next sweep starts at the last
  point. (This is Nesterov's momentum with restarts for ALS, arXiv 1810.05846.)
  The sweeps end early when the gain or the error is too small for the dtype.
  """
  whole = square(query_gram, key_gram, len(m))
  parts = query_gram, key_gram, x, y, m
  query_gram, key_gram, x, y, m = (a.astype(dtype) for a in parts)
  now = start = x, y, m, key_gram @ y
  best, momentum, errors = np.inf, dtype(0), []
  while len(errors) < sweeps and best > _FLOOR[dtype]:
    new, explained = _sweep(query_gram, key_gram, start)
    error = np.sqrt(max(whole - explained, 0) / max(whole, _TINY))
    if error < best:
      start = [a + momentum * (a - b) for a, b in zip(new, now, strict=True)]
      now, best = new, error
      momentum = min(momentum + dtype(0.1), dtype(0.9))
    elif start is now:
      break
    else:
      start, momentum = now, dtype(0)
    errors.append(best)
  return *(a.astype(np.float64) for a in now[:3]), errors


def _sweep(query_gram, key_gram, point):
  """Returns the next point, and how much of sum_h |A_h|^2 it explains.

  A point is X [N, k], Y [N, k], m [H, k] and Gk Y [N, k].
  """
  x, y, m, pv = point
  (H, k), N = m.shape, len(x)
  rows = lambda p, m: (p.reshape(H, -1, k) * m[:, None]).reshape(N, k)
  x = _solve((m.T @ m) * (y.T @ pv), rows(pv, m), x)
  pu = query_gram @ x
  uu = x.T @ pu
  y = _solve((m.T @ m) * uu, rows(pu, m), y)
  pv = key_gram @ y
  vv = y.T @ pv
  inner = np.einsum('hnk,hnk->hk', *(p.reshape(H, -1, k) for p in (pu, pv)))
  gram = uu * vv
  m = _solve(gram, inner, m)
  explained = ((2 * inner - m @ gram) * m).sum(dtype=np.float64)
  # The scales of U and V are free, so their columns get equal length.
  u, v = (np.sqrt(np.maximum(np.diag(g), _TINY)) for g in (uu, vv))
  return (x / u, y / v, m * (u * v), pv / v), explained


def _solve(gram, right, old):
  """Computes right gram^-1, [n, k], from [n, k] and a Gram matrix [k, k].

  It is damped towards the old solution: min |z a - b|^2 + damping |z - old|^2.
  This never increases the error and does not move the optimum.
  """
  dtype = gram.dtype.type
  damping, size = _DAMPING[dtype], np.maximum(np.diag(gram), _TINY)
  scale = 1 / np.sqrt(size)
  gram = gram * scale[:, None] * scale
  gram.flat[:: len(gram) + 1] += damping
  right = (right + damping * size * old) * scale
  factor = linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
  found = linalg.cho_solve(
    factor, right.T, overwrite_b=True, check_finite=False
  )
  return found.T * scale


def _balance(x, y, m, ratio):
  """Scales columns so that the largest weight in m is 1, and U and V match.

  The given columns have length 1, in units in which V's is `ratio` of U's.
  """
  top = np.take_along_axis(m, np.abs(m).argmax(0)[None], 0)[0]
  length = np.sqrt(np.abs(top))
  x, y = x * length * ratio**0.5, y * length * np.sign(top) / ratio**0.5
  return x, y, m / np.where(top == 0, 1, top)
