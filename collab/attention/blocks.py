# SPDX-License-Identifier: Apache-2.0
"""Runs a kernel over blocks of queries, so that no T x S array exists.

A `Kernel` computes one block of t queries with all keys that the block may see.
`attend` splits the queries into blocks, forward and backward, so that memory is
linear in T and in S. The softmax of a block is exact and needs no running
maximum. The backward pass recomputes a block from saved row statistics. Under a
causal mask consecutive blocks form a run, which reads only the keys that one of
its blocks sees: a prefix, or with a window a stretch.

Axes: B batch, N score matrices (1 if all heads share one), T queries, S keys, n
blocks of t queries. Layout: [B, N, T, *] for queries; `keys` is a tuple of all
that has an axis of keys, [B, *, S, *].
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
from jax import export, lax
import jax.numpy as jnp

from collab.attention.masks import Mask
from collab.attention.target import target

# On a CPU, blocks of 16 to 64 MiB take equally long and smaller ones longer. An
# accelerator is faster with few large blocks.
BLOCK_BYTES = {'cpu': 32 << 20}
DEFAULT_BLOCK_BYTES = 256 << 20
SYMBOLIC_BLOCK = 128  # queries of a block when the length is symbolic
CAUSAL_RUNS = 8  # runs of causal blocks
WINDOW_RUNS = 32  # at most, under a window
WINDOW_BLOCK = 128  # a window makes blocks smaller, but not below this


class Kernel(NamedTuple):
  """forward(q, keys, allowed, keep, options) -> (o, stats), and its VJP.

  backward(q, o, stats, g, keys, allowed, keep, options) -> (dq, dkeys).

  q, o, g are [B, N, t, *]; keys is a tuple of [B, *, S, *]; allowed is bool
  [B|1, N|1, t, S] or None; keep is `keep_pairs`' [1, 1, t, S] or None. stats is
  float32 [B, N, t, *], with stats[..., 0] = inf where a row has no key, and
  backward gives zeros for such rows. dkeys are float32.
  """

  forward: Any
  backward: Any


class Options(NamedTuple):
  """The settings of a kernel that are known before tracing."""

  kernel: Kernel
  block: int  # queries at a time
  rate: float  # of the dropout
  precision: Any
  soft_cap: float | None = None  # of the scores


def options(
  kernel: Kernel,
  B: int,
  T: int,
  row_floats: int,
  *,
  rate: float = 0.0,
  precision: Any = None,
  block: int | None = None,
  soft_cap: float | None = None,
) -> Options:
  """Chooses the Options of a kernel.

  Args:
    kernel: a Kernel.
    B, T: number of examples and of queries in the call.
    row_floats: number of floats that the kernel needs for one query.
    rate: dropout rate of the weights; heads and examples share one pattern.
    precision: precision of the matrix products.
    block: queries at a time; by default `block_size`.
    soft_cap: bound of the scores, for kernels that have one.
  """
  block = block or block_size(B, row_floats, T)
  return Options(kernel, block, rate, precision, soft_cap)


def block_size(B: int, row_floats: int, T: int) -> int:
  """Chooses a number of queries that keeps a block within the backend's budget.

  If all queries take at most twice the budget they form one block, which is
  faster than two.
  """
  if is_symbolic(T):
    return SYMBOLIC_BLOCK
  if is_symbolic(B, row_floats):
    return min(T, SYMBOLIC_BLOCK)
  budget = BLOCK_BYTES.get(target().platform, DEFAULT_BLOCK_BYTES)
  row = 4 * B * row_floats
  return T if T * row <= 2 * budget else max(1, budget // row)


def is_symbolic(*sizes: Any) -> bool:
  """Returns whether one of the sizes is symbolic, as under jax.export."""
  return any(map(export.is_symbolic_dim, sizes))


def keep_pairs(
  key: jax.Array, rate: float, start: int | jax.Array, size: int, stop: int
) -> jax.Array:
  """Makes a dropout mask for attention weights, shared by heads and examples.

  The mask depends on the key and on the positions of query and key alone, not
  on the kernel or the size of its blocks. So bits are drawn for the keys from 0
  on, also where a window hides the first ones.

  Returns:
    float32 [1, 1, size, stop]: 0 with probability `rate`, else 1 / (1 - rate).
  """
  rows = start + jnp.arange(size)
  row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, (stop,)))
  keep = keep(row_keys).astype(jnp.float32) / (1 - rate)
  return keep[None, None]


def forward(
  options: Options,
  q: jax.Array,
  keys: tuple,
  mask: Mask | None,
  key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Runs a kernel over all queries; `attend` is this with a gradient, of o.

  Args:
    options: Options.
    q: [B, N, T, K].
    keys: tuple of arrays [B, *, S, *], or None, for the kernel.
    mask: masks.Mask or None.
    key: random key, or None if options.rate is 0.

  Returns:
    o [B, N, T, *], and the kernel's stats [B, N, T, *].
  """
  runs = _runs(options, q, keys, mask, key)
  blocks = _split(q, runs)

  def block(run, i, q):
    return options.kernel.forward(q, *run.at(i), options)

  done = [run.map(functools.partial(block, run), blocks) for run in runs]
  o, stats = jax.tree.map(lambda *x: jnp.concatenate(x), *done)
  return _join(o, q.shape[2]), _join(stats, q.shape[2])


def backward(
  options: Options,
  q: jax.Array,
  keys: tuple,
  mask: Mask | None,
  key: jax.Array | None,
  o: jax.Array,
  stats: jax.Array,
  g: jax.Array,
) -> tuple[jax.Array, tuple]:
  """Computes the cotangents of q and keys from the results of `forward`."""
  runs = _runs(options, q, keys, mask, key)
  stats = _split(stats, runs, jnp.inf)  # the weights of padded queries are 0
  rows = _split(q, runs), _split(o, runs), stats, _split(g, runs)
  dqs, dkeys = [], []

  def block(run, i, row):
    dq, dkeys = options.kernel.backward(*row, *run.at(i), options)
    return dq.astype(q.dtype), dkeys

  for run in runs:
    dq, dkey = run.map_and_sum(functools.partial(block, run), rows)
    dqs.append(dq)
    dkeys.append(jax.tree.map(run.pad, dkey, keys))
  # The keys' cotangents are summed over blocks in float32 and cast once.
  dkeys = jax.tree.map(lambda x, *d: sum(d).astype(x.dtype), keys, *dkeys)
  return _join(jnp.concatenate(dqs), q.shape[2]), dkeys


def _attend_forward(options, *arguments):
  o, stats = forward(options, *arguments)
  return (o, stats), (arguments, o, stats)


def _attend_backward(options, saved, gs):
  arguments, o, stats = saved
  return *backward(options, *arguments, o, stats, gs[0]), None, None


attend = jax.custom_vjp(forward, nondiff_argnums=(0,))
attend.defvjp(_attend_forward, _attend_backward)


class _Run(NamedTuple):
  """Blocks first:end of n, of t queries each, which read keys begin:stop."""

  first: int
  end: int
  begin: int
  stop: int
  at: Any  # block index -> (keys, allowed, keep)
  n: int
  t: int

  def map(self, f, rows):
    """Applies f(i, block i of rows) to each block and stacks the outputs."""
    if self.end - self.first == 1:
      return jax.tree.map(lambda x: x[None], f(self.first, self._one(rows)))
    return lax.map(lambda x: f(*x), self._all(rows))

  def map_and_sum(self, f, rows):
    """Applies f -> (output, term); stacks the outputs and sums the terms."""
    if self.end - self.first == 1:
      out, total = f(self.first, self._one(rows))
      return out[None], total

    def step(total, x):
      out, term = f(*x)
      return jax.tree.map(jnp.add, total, term), out

    terms = jax.eval_shape(f, 0, self._one(rows))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), terms)
    total, out = lax.scan(step, zeros, self._all(rows))
    return out, total

  def pad(self, x: jax.Array, like):
    """Adds zeros for the keys before begin and beyond stop."""
    ends = self.begin, like.shape[2] - self.stop
    return jnp.pad(x, [ends if i == 2 else (0, 0) for i in range(x.ndim)])

  def _one(self, rows):
    return jax.tree.map(lambda x: x[self.first], rows)

  def _all(self, rows):
    rows = jax.tree.map(lambda x: x[self.first : self.end], rows)
    return jnp.arange(self.first, self.end), rows


def _runs(options, q, keys, mask, key):
  """Splits the queries into blocks, and the blocks into runs.

  Symbolic lengths cannot be compared; then all blocks form one run. A window
  has about 4 runs for its own length, as each reads a run's queries more.
  """
  T, S = q.shape[2], keys[0].shape[2]
  causal = mask and mask.causal and mask.q_positions is None
  causal = causal and not is_symbolic(T, S)
  window = mask.window if causal else None
  block, parts = options.block, CAUSAL_RUNS
  if window is not None:
    block = min(block, max(window, WINDOW_BLOCK))
    parts = min(max(4 * T // window, CAUSAL_RUNS), WINDOW_RUNS)
  n = -(-T // block)
  t = block if is_symbolic(T) else -(-T // n)
  mask = mask and mask.pad_rows(n * t - T)
  cuts = [n * i // parts for i in range(parts + 1)] if causal else [0, n]

  def run(first, end):
    begin, stop = 0, S
    if causal:
      stop = min(end * t + mask.offset, S)
    if window is not None:
      begin = max(0, min(first * t + mask.offset - window + 1, stop - 1))
    seen = jax.tree.map(lambda x: x[:, :, begin:stop], keys)

    def at(i):
      start, keep = i * t, None
      if options.rate:
        keep = keep_pairs(key, options.rate, start, t, stop)[..., begin:]
      return seen, mask and mask.block(start, t, stop, begin), keep

    return _Run(first, end, begin, stop, at, n, t)

  return [run(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def _split(x, runs, fill=0):
  """Reshapes [B, N, T, *] -> [n, B, N, t, *], padded with `fill`."""
  n, t = runs[0].n, runs[0].t
  B, N, T, *rest = x.shape
  pad = [(0, n * t - T if axis == 2 else 0) for axis in range(x.ndim)]
  x = jnp.pad(x, pad, constant_values=fill).reshape(B, N, n, t, *rest)
  return jnp.moveaxis(x, 2, 0)


def _join(x, T):
  """Reshapes [n, B, N, t, *] -> [B, N, T, *]."""
  n, B, N, t, *rest = x.shape
  return jnp.moveaxis(x, 0, 2).reshape(B, N, n * t, *rest)[:, :, :T]
