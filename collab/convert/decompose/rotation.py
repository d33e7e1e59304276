# SPDX-License-Identifier: Apache-2.0
"""Moments of vectors that rotate, averaged over the lags of key and query.

A plane is a complex number z_i, which a lag tau = s - t, of a key at s and a
query at t, turns to z_i exp(i tau a_i). So moments of two vectors are
multiplied by the Gram matrix of the lags:

    E[Z_i conj(W_j)] = E[z_i conj(w_j)] G(a_i - b_j),  Z_i = z_i exp(i tau a_i)

with G(x) the mean of exp(i tau x); and E[z_i w_j] by G(a_i + b_j). Fast planes
do not correlate, and slow ones hardly turn. Vectors are half-split, as in
collab/attention/rope.py. A vector's planes are given by their numbers, of which
REST does not turn.

Axes: T lags, P planes, K and N widths of vectors.
"""

from collections.abc import Sequence

import numpy as np

REST = -1


def of_pairs(length: int) -> np.ndarray:
  """The share of each lag among all pairs of a causal row, [T]."""
  return np.arange(length, 0, -1) / (length * (length + 1) / 2)


class Lags:
  """How the lags tau = 0, -1, ... of causal rows turn planes.

  Attributes:
    planes: P, the number of planes that turn.
  """

  def __init__(self, share: np.ndarray, rates: np.ndarray):
    """Takes the share of each lag [T], and the rates [P] of the planes."""
    turns = np.exp(-1j * np.outer(np.append(rates, 0), np.arange(len(share))))
    self.planes = len(rates)
    self._direct = turns * share @ turns.conj().T
    self._other = turns * share @ turns.T

  def mean(self, planes: Sequence) -> np.ndarray:
    """Computes G of the planes' rates, complex."""
    return self._direct[planes, REST]

  def moments(
    self, x: np.ndarray, left: Sequence, right: Sequence, sign: int = 1
  ) -> np.ndarray:
    """Computes the moments [K, N] of rotated vectors, E[R_tau u v^T R_tau^T].

    Args:
      x: E[u v^T].
      left: u's planes, [K / 2].
      right: v's planes, [N / 2].
      sign: -1 rotates backwards.
    """
    (a, b), (c, d) = (np.split(rows, 2, 1) for rows in np.split(x, 2))
    at = np.ix_(left, right)
    direct, other = self._direct[at], self._other[at]
    if sign < 0:
      direct, other = direct.conj(), other.conj()
    direct = (a + d + 1j * (c - b)) * direct  # of z_i conj(w_j)
    other = (a - d + 1j * (c + b)) * other  # of z_i w_j
    z, w = (direct + other) / 2, (direct - other) / 2
    return np.block([[z.real, -w.imag], [z.imag, w.real]])
