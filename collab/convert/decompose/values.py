# SPDX-License-Identifier: Apache-2.0
"""Gives the values and outputs of multi-head attention a lower rank.

  sum_h o_h Wo_h  ~  sum_h (o_h X_h) Z_h + b,   o_h = sum_j p_hj y_j Wv_h

o_h are the values that a query mixes, with covariance C_h. A head keeps the r_h
directions E_h of its output that vary most, the leading singular vectors of
C_h^1/2 Wo_h: X_h = Wo_h E_h. The outputs Z of all heads are then fitted
together, since some heads can make up for what others lose, and b has what is
lost of the mean. The new values are Wv_h X_h. A head of rank 0 is pruned.

Axes: H heads, V value width, D output.
"""

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
  gains = np.zeros((H, V))  # there are fewer if D < V
  gains[:, : s.shape[1]] = s**2
  return gains, directions


@cp.one_thread
def low_rank(mha: Mha, moments: Moments, widths: Sequence[int]) -> Mha:
  """Lowers the rank of each head's values to its width.

  Returns:
    An Mha whose values have no bias, and are zeros beyond the widths.
  """
  H, V, D = mha.out.shape
  _, directions = spectrum(mha, moments)
  z = np.zeros_like(mha.out)
  for h, width in enumerate(widths):
    z[h, :width] = directions[h, :width]
  x = mha.out @ z.swapaxes(1, 2)  # [H, V, V]
  mean, cov = _mixed(mha, moments)
  big, out, z = linalg.block_diag(*x), mha.out.reshape(-1, D), z.reshape(-1, D)
  seen = big.T @ cov
  # The change to Z is fitted: where nothing is lost, it is exactly 0.
  z = z + np.linalg.lstsq(seen @ big, seen @ (out - big @ z), rcond=1e-10)[0]
  return mha._replace(
    value=np.einsum('dhv,hvw->dhw', mha.value, x),
    value_bias=0 * mha.value_bias,
    out=z.reshape(H, V, D),
    bias=mha.bias + mean @ (out - big @ z),
  )


def packed(tree: dict, widths: Sequence[int]) -> dict:
  """Makes the tree of a layer with value_dims of one with zeros beyond them."""
  ends = [slice(width) for width in widths]
  join = lambda x: np.concatenate([x[h, end] for h, end in enumerate(ends)])
  value = {
    name: np.moveaxis(join(np.moveaxis(x, (-2, -1), (0, 1))), 0, -1)
    for name, x in tree['value'].items()
  }
  out = tree['out'] | dict(kernel=join(tree['out']['kernel']))
  return tree | dict(value=value, out=out)


def _mixed(mha, moments):
  """Returns mean [H V] and covariance [H V, H V] of o, without Wv's bias.

  Of unknown inputs each head sees one token, another than those of the others.
  """
  if moments.o_cov is not None:
    return moments.o_mean - mha.value_bias.reshape(-1), moments.o_cov
  mean = np.einsum('d,dhv->hv', moments.y_mean, mha.value).reshape(-1)
  own = np.einsum('dhv,de,ehw->hvw', mha.value, moments.y_cov, mha.value)
  return mean, linalg.block_diag(*own)
