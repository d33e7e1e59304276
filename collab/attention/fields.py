# SPDX-License-Identifier: Apache-2.0
"""Checks the values of a layer's fields against the types that it declares."""

from collections.abc import Mapping
import dataclasses
import inspect
import numbers

import numpy as np

# Of these types a value is checked.
_TYPES = {
  int: numbers.Integral,
  int | None: numbers.Integral | None,
  float: numbers.Real,
  bool: bool | np.bool_,
  bool | None: bool | np.bool_ | None,
  str: str,
}


def check(layer: type, values: Mapping):
  """Refuses values of another type than the field's, or out of its range.

  Args:
    layer: class of the layer.
    values: {name: value}; what is no field, or of any other type, is not
      checked.

  Raises:
    TypeError: not the number, bool or string that the class declares; a bool is
      not a number.
    ValueError: dropout_rate is not in [0, 1).
  """
  for field in dataclasses.fields(layer):
    name, kind = field.name, field.type
    if name not in values or kind not in _TYPES:
      continue
    value = values[name]
    wrong = not isinstance(value, _TYPES[kind])
    # To Python a bool is an integer, too.
    if wrong or (isinstance(value, bool) and kind not in (bool, bool | None)):
      expected = inspect.formatannotation(kind)
      raise TypeError(f'{name}={value!r}; expected {expected}.')
    if name == 'dropout_rate' and not 0 <= value < 1:
      raise ValueError(f'{name}={value!r}; expected at least 0, below 1.')
