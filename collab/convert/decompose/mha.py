# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention as what conversions start from, in float64.

Axes: D model, H heads, K key width, V value width.
"""

from typing import NamedTuple

import numpy as np


class Mha(NamedTuple):
  """Multi-head attention in float64; `read` makes it of parameters.

  Attributes:
    query, key: Wq, Wk [D, H, K].
    query_bias: bq [H, K].
    value: Wv [D, H, V].
    out: Wo [H, V, Dout].
    bias: b, that of the output and of the values, [Dout].
  """

  query: np.ndarray
  key: np.ndarray
  query_bias: np.ndarray
  value: np.ndarray
  out: np.ndarray
  bias: np.ndarray


def read(params, scale=1.0) -> Mha:
  """Mha of a layer's parameters; queries are multiplied by `scale`.

  The layers made of it divide scores by sqrt(V), as multi-head attention does;
  scale is for one that does not.

  Raises:
    ValueError: the parameters are another variant's, or not finite.
  """
  names = 'query', 'key', 'value', 'out'
  if params.keys() != {*names}:
    raise ValueError(
      f'Not the parameters of multi-head attention: {", ".join(params)}; '
      f'expected {", ".join(names)}.'
    )
  kernels = {n: np.asarray(params[n]['kernel'], np.float64) for n in names}
  heads = {w.shape[n != 'out'] for n, w in kernels.items() if w.ndim == 3}
  if len(heads) != 1 or any(w.ndim != 3 for w in kernels.values()):
    shapes = ', '.join(f'{n} {w.shape}' for n, w in kernels.items())
    raise ValueError(f'Not the kernels of multi-head attention: {shapes}.')
  biases = {
    n: np.asarray(params[n].get('bias', np.zeros(w.shape[1 + (n == 'out') :])))
    for n, w in kernels.items()
  }
  for name in names:
    if not np.isfinite(kernels[name].sum() + biases[name].sum()):
      raise ValueError(f'The parameters of {name} are not finite.')
  query, key, value, out = kernels.values()
  lifted = np.einsum('hk,hkd->d', biases['value'], out)
  return Mha(
    query * scale,
    key,
    biases['query'] * scale,
    value,
    out,
    biases['out'] + lifted,
  )
