# SPDX-License-Identifier: Apache-2.0
"""Translates between tensors of Transformers and our parameters.

Torch's linear layers store [out, in], GPT-2's [in, out]. Ours store [D, H, K]
for projections into heads, [H, K, D] for the projection from heads, and [in,
out] for the others. Both directions only move numbers, so a tensor that was
read is written bit for bit. `SHIFTED` alone also adds and subtracts 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
  """A tensor of a module and the parameters in it.

  Attributes:
    tensor: suffix of its name after that of the module, '.weight' or ''.
    params: suffixes of their names after our module's, '/kernel' or ''.
    write: function parameters -> tensor.
    read: function tensor, shape of each parameter -> parameters.
  """

  tensor: str
  params: tuple[str, ...]
  write: Callable
  read: Callable


def _same(x):
  return x


def _reshape(x, shape):
  return (x.reshape(shape),)


def _transpose(x, shape):
  return (x.T.reshape(shape),)


def _columns(*xs):
  """Puts arrays [D, ...] side by side as [D, N]."""
  return np.concatenate([x.reshape(len(x), -1) for x in xs], 1)


def _rows(x):
  """Reshapes [..., D] -> [N, D]."""
  return x.reshape(-1, x.shape[-1])


def _join(*xs):
  return np.concatenate([x.reshape(-1) for x in xs])


def _split(x, *shapes):
  """Inverts _columns and _join."""
  parts = np.split(x, len(shapes), -1)
  return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]


def _linear(weight, write, read):
  bias = Part('.bias', ('/bias',), _join, _reshape)
  return (Part('.weight', (f'/{weight}',), write, read), bias)


WHOLE = (Part('', ('',), _same, _reshape),)
FIRST_ROW = (Part('', ('',), lambda x: x[None], _reshape),)  # [1, ...]
TABLE = (Part('.weight', ('/embedding',), _same, _reshape),)
NORM = _linear('scale', _same, _reshape)
DENSE = _linear('kernel', lambda x: _rows(x).T, _transpose)
# Gemma's norms multiply by 1 + w, in float32. That comes back exactly, and w to
# within 2^-24.
SHIFTED = _linear(
  'scale', lambda x: x - 1, lambda x, shape: ((x + 1).reshape(shape),)
)
HEADS = _linear('kernel', lambda x: _columns(x).T, _transpose)
GPT_DENSE = _linear('kernel', _rows, _reshape)
_QKV = ('/query', '/key', '/value')
GPT_HEADS = (
  Part('.weight', tuple(f'{n}/kernel' for n in _QKV), _columns, _split),
  Part('.bias', tuple(f'{n}/bias' for n in _QKV), _join, _split),
)
_GATED = ('/mlp_gate', '/mlp_in')
GATED = (
  Part(
    '.weight',
    tuple(f'{n}/kernel' for n in _GATED),
    lambda *xs: _columns(*xs).T,
    lambda x, *shapes: _split(x.T, *shapes),
  ),
  Part('.bias', tuple(f'{n}/bias' for n in _GATED), _join, _split),
)


def within(module: str, path: str, layout: tuple) -> tuple:
  """Returns the layout of a module within another, with these names there."""
  return tuple(
    part._replace(
      tensor=module + part.tensor,
      params=tuple(path + param for param in part.params),
    )
    for part in layout
  )


def patches(P: int) -> tuple[Part, Part]:
  """Maps between the convolution [D, C, P, P] and our kernel [P P C, D]."""

  def write(x):
    return x.reshape(P, P, -1, x.shape[-1]).transpose(3, 2, 0, 1)

  def read(x, shape):
    return (x.transpose(2, 3, 1, 0).reshape(shape),)

  return _linear('kernel', write, read)
