# SPDX-License-Identifier: Apache-2.0
"""Gives the values and outputs of multi-head attention a lower rank.

  sum_h o_h Wo_h  ~  sum_h (o_h X_h) Z_h + b,   o_h = sum_j p_hj y_j Wv_h

o_h are the values that a query mixes, with covariance C_h. A head keeps the r_h
directions E_h of its output that vary most, the leading singular vectors of
C_h^1/2 Wo_h: X_h = Wo_h E_h. The outputs Z of all heads are then fitted
together, since some heads can make up for what others lose, and b has what is
lost of the mean. The new values are Wv_h X_h. A head of rank 0 adds nothing.

Axes: H heads, V value width, D output.
"""

import bisect
from collections.abc import Sequence

import numpy as np
from scipy import linalg

from collab.convert.decompose import cp
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha


@cp.one_thread
def spectrum(mha: Mha, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  """Finds the directions of the heads' outputs, by decreasing variance.

  Returns:
    The variances [H, V], and E^T [H, V, D].
  """
  H, V, _ = mha.out.shape
  _, cov = _mixed(mha, moments)
  cov = cov.reshape(H, V, H, V)[range(H), :, range(H)]
  _, s, directions = np.linalg.svd(
    cp.root(cov)[0] @ mha.out, full_matrices=False
  )
  ends = [(0, 0), (0, V - s.shape[1])]  # there are fewer if D < V
  return np.pad(s**2, ends), np.pad(directions, [*ends, (0, 0)])


@cp.one_thread
def ranks_for_error(mha: Mha, moments: Moments, most: float) -> np.ndarray:
  """Finds ranks [H] of the fewest directions by which outputs lose `most`.

  The error is sqrt(E|new - old|^2 / E|old - mean old|^2) of `low_rank`. It is
  not what gains leave: the outputs of heads add up, and may cancel out.
  """
  gains, _ = spectrum(mha, moments)
  order = np.argsort(-gains, axis=None, kind='stable')
  _, cov = _mixed(mha, moments)
  square = lambda out: np.einsum('nd,nd->', out, cov @ out)

  def ranks(n):
    heads = order[:n] // gains.shape[1]
    return np.bincount(heads, minlength=len(gains))

  def fits(n):
    big, z = _factors(mha, moments, ranks(n))
    out = mha.out.reshape(z.shape)
    return square(out - big @ z) <= most**2 * square(out)

  # With all directions nothing is lost, but for rounding.
  return ranks(1 + bisect.bisect_left(range(1, order.size), True, key=fits))


@cp.one_thread
def low_rank(mha: Mha, moments: Moments, widths: Sequence[int]) -> Mha:
  """Lowers the rank of each head's values to its width.

  Returns:
    An Mha whose values have no bias, and are zeros beyond the widths.
  """
  big, z = _factors(mha, moments, widths)
  mean, _ = _mixed(mha, moments)
  D, H, V = mha.value.shape
  return mha._replace(
    value=(mha.value.reshape(D, -1) @ big).reshape(D, H, V),
    value_bias=0 * mha.value_bias,
    out=z.reshape(mha.out.shape),
    bias=mha.bias + mean @ (mha.out.reshape(z.shape) - big @ z),
  )


@cp.one_thread
def leaving(mha: Mha, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  """Orders heads by what outputs lose, if they leave one by one.

  The head that costs least leaves next, and the outputs of those that stay are
  fitted again. With C the covariance of their values and Z their outputs, head
  h costs |A^-1/2 Z_h|^2, where A is its block of C^-1.

  Returns:
    Heads in the order in which they leave, [H], and what each costs, made so
    that none costs less than one before, [H].
  """
  H, V, _ = mha.out.shape
  _, cov = _mixed(mha, moments)
  cov = cov + (1e-9 * np.trace(cov) / len(cov) + 1e-30) * np.eye(len(cov))
  cov, z = cov.reshape(H, V, H, V), mha.out
  left, order, costs = np.arange(H), [], []
  while len(left):
    n = len(left)
    inverse = np.linalg.inv(cov[left][:, :, left].reshape(n * V, -1))
    inverse = inverse.reshape(n, V, n, V)
    own = np.linalg.solve(inverse[range(n), :, range(n)], z)
    cost = np.einsum('hvd,hvd->h', z, own)
    i = cost.argmin()
    z = np.delete(z - np.einsum('hvw,wd->hvd', inverse[:, :, i], own[i]), i, 0)
    order.append(left[i])
    costs.append(cost[i])
    left = np.delete(left, i)
  return np.array(order), np.maximum.accumulate(costs)


def pruned(mha: Mha, moments: Moments, heads: int) -> Mha:
  """Keeps some heads, the last ones to leave; their outputs are fitted again.

  The mean output of those that leave moves into the bias.
  """
  H, V, _ = mha.out.shape
  order, _ = leaving(mha, moments)
  kept = np.sort(order[H - heads :])
  widths = np.where(np.isin(range(H), kept), V, 0)
  new = low_rank(mha, moments, widths)
  query, key, value = (x[:, kept] for x in (new.query, new.key, new.value))
  return new._replace(
    query=query,
    key=key,
    query_bias=new.query_bias[kept],
    value=value,
    out=new.out[kept],
    value_bias=new.value_bias[kept],
  )


def packed(tree: dict, widths: Sequence[int]) -> dict:
  """Makes the tree of a layer with value_dims of one with zeros beyond them."""
  kernel = tree['out']['kernel']
  kept = _kept(widths, kernel.shape[1])
  value = {name: x[..., kept] for name, x in tree['value'].items()}
  return tree | dict(value=value, out=tree['out'] | dict(kernel=kernel[kept]))


def _kept(widths, V):
  """Tells which columns lie within the widths, bool [H, V]."""
  return np.arange(V) < np.array(widths)[:, None]


def _factors(mha, moments, widths):
  """Returns X of all heads, [H V, H V] with blocks, and Z [H V, D]."""
  _, V, D = mha.out.shape
  _, directions = spectrum(mha, moments)
  z = np.where(_kept(widths, V)[..., None], directions, 0)
  x = mha.out @ z.swapaxes(1, 2)  # [H, V, V]
  _, cov = _mixed(mha, moments)
  big, out, z = linalg.block_diag(*x), mha.out.reshape(-1, D), z.reshape(-1, D)
  seen = big.T @ cov
  # The change to Z is fitted: where nothing is lost, it is exactly 0.
  more = np.linalg.lstsq(seen @ big, seen @ (out - big @ z), rcond=1e-10)[0]
  return big, z + more


def _mixed(mha, moments):
  """Returns mean [H V] and covariance [H V, H V] of o, without Wv's bias.

  Where the inputs are unknown, each head is taken to read a single token, and
  no two heads the same one.
  """
  if moments.o_cov is not None:
    return moments.o_mean - mha.value_bias.reshape(-1), moments.o_cov
  mean = np.einsum('d,dhv->hv', moments.y_mean, mha.value).reshape(-1)
  own = np.einsum('dhv,de,ehw->hvw', mha.value, moments.y_cov, mha.value)
  return mean, linalg.block_diag(*own)
