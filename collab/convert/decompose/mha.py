# SPDX-License-Identifier: Apache-2.0
"""Reads the parameters of multi-head attention for conversion, in float64.

Axes: D model, H heads, K key width, V value width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

NAMES = 'query', 'key', 'value', 'out'  # of the parameter groups


class Mha(NamedTuple):
  """The parameters of multi-head attention in float64, made by `read`.

  Attributes:
    query, key: Wq, Wk [D, H, K]. Of a rotated layer keys and values may be
      those of G groups, [D, G, K], and the bias of values [G, V].
    query_bias: bq [H, K].
    value: Wv [D, H, V].
    out: Wo [H, V, Dout].
    bias: b, the sum of the output's bias and the values' part, [Dout].
    value_bias: bv [H, V], whose part b has.
  """

  query: np.ndarray
  key: np.ndarray
  query_bias: np.ndarray
  value: np.ndarray
  out: np.ndarray
  bias: np.ndarray
  value_bias: np.ndarray


def read(params: Mapping, scale: float = 0.0, grouped: bool = False) -> Mha:
  """Reads the Mha of a layer's parameters.

  The converted layers divide scores by sqrt(V). If this layer scales them
  differently, the queries absorb the difference.

  Args:
    params: parameters of multi-head attention.
    scale: scale of the scores, 0 for 1 / sqrt(V).
    grouped: whether heads may share keys and values.

  Raises:
    ValueError: the parameters are those of another variant, or not finite.
  """
  if params.keys() != {*NAMES}:
    raise ValueError(
      f'Not the parameters of multi-head attention: {", ".join(params)}; '
      f'expected {", ".join(NAMES)}.'
    )
  kernels = {n: np.asarray(params[n]['kernel'], np.float64) for n in NAMES}
  heads = [w.shape[n != 'out'] for n, w in kernels.items() if w.ndim == 3]
  H, G = (heads[0], heads[1 if grouped else 0]) if heads else (0, 0)
  if heads != [H, G, G, H]:
    shapes = ', '.join(f'{n} {w.shape}' for n, w in kernels.items())
    raise ValueError(f'Not the kernels of multi-head attention: {shapes}.')
  biases = {
    n: np.asarray(params[n].get('bias', np.zeros(w.shape[1 + (n == 'out') :])))
    for n, w in kernels.items()
  }
  for name in NAMES:
    if not np.isfinite(kernels[name].sum() + biases[name].sum()):
      raise ValueError(f'The parameters of {name} are not finite.')
  query, key, value, out = kernels.values()
  scale = scale * value.shape[-1] ** 0.5 or 1.0
  query_bias = biases['query'] * scale
  own = biases['value'].repeat(H // G, 0)
  bias = biases['out'] + np.einsum('hk,hkd->d', own, out)
  return Mha(query * scale, key, query_bias, value, out, bias, biases['value'])
