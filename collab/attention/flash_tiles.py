# SPDX-License-Identifier: Apache-2.0
"""The Pallas kernels of flash attention for one block, forward and backward.

The formulas are in flash.py. Each kernel holds a block of one side, queries or
keys, and loops over the blocks of the other side that the mask does not
exclude. The kernels use only what both Mosaic and Triton support: two axes,
loads at multiples of a block, and no control flow except the loop's bounds.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from collab.attention import block_math

NT, NN = ((1,), (1,)), ((1,), (0,))  # x y^T, x y


class Rows(NamedTuple):
  """Rows of queries or keys: arrays [B, N, n, *], references, or blocks [b, *].

  The last three fields are lines, with one number a row: [*, n, 1], or
  [*, 1, n] for the side that a kernel loops over. A field may be None.
  """

  a: Any = None  # q | k
  x: Any = None  # dnum | X
  w: Any = None  # dden | W, of shared scores
  delta: Any = None  # dden of softmax | None
  line: Any = None  # row max | key bias
  segment: Any = None

  def map(self, wide, line):
    """Applies `wide` to the first three fields, and `line` to the lines."""
    return Rows(*jax.tree.map(wide, self[:3]), *jax.tree.map(line, self[3:]))


def forward(own, other, out, *, queries, causal, precision):
  """Computes num, den and row max of a block of queries."""
  q, i = _block(own), pl.program_id(1)

  def step(j, state):
    top, num, den = state
    k = _block(other, j, q.a.shape[0])
    s = _scores(q, k, i - j, queries, causal, precision)
    higher = jnp.maximum(top, s.max(1, keepdims=True))
    e, fade = jnp.exp(s - higher), jnp.exp(top - higher)
    if k.w is None:
      more = e.sum(1, keepdims=True)
    else:
      more = _dot(e, k.w, NN, precision)
    num = num * fade + _dot(e, k.x, NN, precision)
    return higher, num, den * fade + more

  den = out.delta if out.w is None else out.w
  zeros = [jnp.zeros(x.shape, x.dtype) for x in (out.x, den)]
  state = jnp.full(out.line.shape, block_math.MASKED), *zeros
  out.line[...], out.x[...], den[...] = _loop(
    step, state, i, other, q.a.shape[0], queries, causal
  )


def backward(own, other, out, *, queries, causal, precision):
  """Computes the cotangents that `out` has, of a block of queries or keys."""
  mine, i = _block(own), pl.program_id(1)
  dot = functools.partial(_dot, precision=precision)

  def step(j, total):
    theirs = _block(other, j, mine.a.shape[0])
    q = mine if queries else theirs
    s = _scores(mine, theirs, i - j, queries, causal, precision)
    e = jnp.exp(s - q.line)
    de = dot(mine.x, theirs.x, NT)
    de += dot(mine.w, theirs.w, NT) if q.delta is None else q.delta
    ds = e * de
    terms = Rows(
      a=dot(ds, theirs.a, NN),
      x=None if out.x is None else dot(e, theirs.x, NN),
      w=None if out.w is None else dot(e, theirs.w, NN),
      line=None if out.line is None else ds.sum(1, keepdims=True),
    )
    return jax.tree.map(jnp.add, total, terms)

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)
  total = _loop(step, zeros, i, other, mine.a.shape[0], queries, causal)
  for ref, x in zip(jax.tree.leaves(out), jax.tree.leaves(total), strict=True):
    ref[...] = x


def _loop(step, state, i, other, block, queries, causal):
  """Loops over the blocks of the other side that block i may see."""
  n = other.a.shape[0] // block
  first = i if causal and not queries else 0
  last = jnp.minimum(i + 1, n) if causal and queries else n
  return lax.fori_loop(first, last, step, state)


def tiles(i, j, queries, causal):
  """Counts the tiles that `_loop` visits, for i blocks against j others."""
  if not causal:
    return i * j
  return sum(min(n + 1, j) if queries else max(j - n, 0) for n in range(i))


def _block(rows, j=None, size=None):
  """Loads all that the references hold, or block j of the other side."""
  if j is None:
    return jax.tree.map(lambda x: x[...], rows)
  at = pl.ds(pl.multiple_of(j * size, size), size)
  return rows.map(lambda x: x[at, :], lambda x: x[:, at])


def _scores(mine, theirs, ahead, queries, causal, precision):
  """Computes a tile of scores, [queries, keys]; transposed if `mine` are keys.

  `ahead` is the number of blocks by which `mine` start after `theirs`.
  """
  s = _dot(mine.a, theirs.a, NT, precision)
  bias = theirs.line if queries else mine.line
  if bias is not None:
    s += bias
  if causal:
    i, j = (lax.broadcasted_iota(jnp.int32, s.shape, axis) for axis in (0, 1))
    offset = ahead * s.shape[0] + i - j
    s = jnp.where(offset >= 0 if queries else offset <= 0, s, block_math.MASKED)
  if mine.segment is not None:
    s = jnp.where(mine.segment == theirs.segment, s, block_math.MASKED)
  return s


def _dot(x, y, dims, precision):
  """Computes x y or x y^T, accumulated in float32."""
  return lax.dot_general(
    x.astype(y.dtype),
    y,
    (dims, ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )
