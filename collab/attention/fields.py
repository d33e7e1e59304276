# SPDX-License-Identifier: Apache-2.0
"""Checks the values of a layer's fields against their declared types."""

from collections.abc import Mapping
import dataclasses
import inspect
import math
import numbers

import numpy as np

from collab.attention.rope import Rope

# Only values of fields with these types are checked.
_TYPES = {
  int: numbers.Integral,
  int | None: numbers.Integral | None,
  float: numbers.Real,
  float | None: numbers.Real | None,
  bool: bool | np.bool_,
  bool | None: bool | np.bool_ | None,
  str: str,
  str | None: str | None,
  Rope | None: Rope | None,
}
NAMES = dict(
  implementation=(None, 'xla', 'cudnn', 'splash'),
  gate=('none', 'head', 'elementwise'),
)
OF_QUERIES_AND_KEYS = ('normalize_qk', 'qk_norm', 'rope')


def check(layer: type, values: Mapping) -> None:
  """Refuses values of the wrong type or out of range.

  Args:
    layer: class of the layer.
    values: {name: value}. Names that are no field, and fields of any other type
      than in _TYPES, are not checked.

  Raises:
    TypeError: a value is not the number, bool or string that the class
      declares; a bool is not a number.
    ValueError: dropout_rate is not in [0, 1), a float is not finite, a width is
      negative, there is no such implementation or gate, or the layer has a
      field that its variant does not obey or another field excludes.
  """
  for field in dataclasses.fields(layer):
    name, kind = field.name, field.type
    if name not in values or kind not in _TYPES:
      continue
    value = values[name]
    wrong = not isinstance(value, _TYPES[kind])
    # In Python a bool is also an integer.
    if wrong or (isinstance(value, bool) and kind not in (bool, bool | None)):
      expected = inspect.formatannotation(kind)
      raise TypeError(f'{name}={value!r}; expected {expected}.')
    if value not in NAMES.get(name, [value]):
      legal = ', '.join(map(repr, NAMES[name]))
      raise ValueError(f'{name}={value!r}; expected one of {legal}.')
    if name == 'dropout_rate' and not 0 <= value < 1:
      raise ValueError(f'{name}={value!r}; expected at least 0, below 1.')
    real = value is not None and kind in (float, float | None)
    if real and not math.isfinite(value):
      raise ValueError(f'{name}={value!r}; expected a finite number.')
    if name == 'soft_cap' and value is not None and value <= 0:
      raise ValueError(f'{name}={value!r}; expected more than 0.')
    if name.endswith('_features') and value is not None and value < 0:
      raise ValueError(f'{name}={value!r}; expected at least 0, the default.')
  if values.get('decode') and layer.mixes_tokens:
    raise ValueError(
      f'{layer.__name__} mixes keys of all places, so it does not decode.'
    )
  given = [name for name in OF_QUERIES_AND_KEYS if values.get(name)]
  for name in given:
    if name not in layer.takes:
      has = ', '.join(layer.takes) or 'none'
      raise ValueError(
        f'{layer.__name__} has no {name}; of {", ".join(OF_QUERIES_AND_KEYS)} '
        f'it has {has}.'
      )
  if 'normalize_qk' in given and len(given) > 1:
    raise ValueError(
      f'normalize_qk and {given[1]} exclude each other: the LayerNorm comes '
      'after all else. With rope, take qk_norm.'
    )
