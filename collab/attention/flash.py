# SPDX-License-Identifier: Apache-2.0
"""Flash attention in Pallas for TPU and GPU, for both block kernels.

    num = E X,  den = E W,  E = exp(q k^T + key bias - row max),  o = num / den

Softmax has W = 1; shared scores (see shared.py) have a column of W and V of X
For softmax, W = 1. For shared scores (see shared.py), W has one column and X
has V columns for each head, so that one tile of E serves all heads that fit in
its width. Let dnum and dden be the cotangents of num and den, computed from
that of o. Then
    dE = dnum X^T + dden W^T,  dS = E * dE
    dq = dS k;   dk = dS^T q,  dX = E^T dnum,  dW = E^T dden,  dbias = dS^T 1

The last line is one kernel run twice, with queries and keys exchanged. Tiles
above the diagonal of a causal mask are not computed. Keys that heads share are
not expanded in memory; their cotangents are, and are summed outside.

These kernels have not run on an accelerator. Values were tested in Pallas'
interpreter, and the lowering to Mosaic (TPU) and Triton (GPU) on a CPU. Nothing
was timed.

Axes: B batch, N heads, n rows (T queries or S keys), H heads that share a tile
(1 in softmax), C chunks into which they are cut if they are too many.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from collab.attention import block_math, blocks, flash_devices, flash_tiles
from collab.attention.flash_tiles import Rows

MASKED = block_math.MASKED
COMPILER = {'gpu': triton.CompilerParams()}


class Flash(NamedTuple):
  """A blocks.Kernel for all queries at once; its `allowed` is the Mask."""

  platform: str  # 'tpu', 'gpu', or 'interpret': anywhere, slowly
  block: int  # number of queries in a tile, and of keys
  width: int  # most columns of X in a tile, unless one head has more

  def forward(self, q, keys, mask, precision):
    """Does what blocks.forward does."""
    (B, N, T, _), (H, C) = q.shape, self._heads(keys)
    k = self._keys(keys, mask, C)
    den = dict(delta=1) if k.w is None else dict(w=H // C)
    like = Rows(x=k.x.shape[3], line=1, **den)
    rows = Rows(a=q, segment=_line(mask and mask.q_segments))
    out = self._call(flash_tiles.forward, precision, rows, k, like, mask)
    num = _join(out.x, C)
    den = out.delta if k.w is None else _join(out.w, C)
    # Under vmap both branches of the guard run, so this must stay finite.
    den = jnp.maximum(den, jnp.finfo(jnp.float32).tiny)
    top = out.line[:, :N]
    dead = top == MASKED  # false for NaN
    num, den = jnp.where(dead, 0.0, num), jnp.where(dead, 1.0, den)
    top = jnp.where(dead, jnp.inf, top)
    o = (num.reshape(B, N, T, H, -1) / den[..., None]).reshape(num.shape)
    return o.astype(keys[1].dtype), jnp.concatenate([top, den], -1)

  def backward(self, q, o, stats, g, keys, mask, precision):
    """Does what blocks.backward does."""
    (B, N, T, _), (H, C) = q.shape, self._heads(keys)
    k = self._keys(keys, mask, C)
    top, den = stats[..., :1], stats[..., 1:]
    g, o = (x.astype(den.dtype).reshape(B, N, T, H, -1) for x in (g, o))
    dnum = (g / den[..., None]).reshape(B, N, T, -1).astype(k.x.dtype)
    dden = -(g * o).sum(-1) / den
    if k.w is None:
      dden = dict(delta=dden)
    else:
      dden = dict(w=_split(dden, C).astype(k.w.dtype))
    segment = _line(mask and mask.q_segments)
    rows = Rows(a=q, x=_split(dnum, C), line=top, segment=segment, **dden)
    run = functools.partial(self._call, flash_tiles.backward, precision)
    dq = run(rows, k, Rows(a=q.shape[3]), mask).a
    like = jax.tree.map(lambda x: x.shape[3], Rows(*k[:3]))
    if keys[2] is not None and k.w is None:
      like = like._replace(line=1)
    d = run(k, rows, like, mask, queries=False)
    dx = _join(_add_up(d.x, k.x), C)
    dextra = None
    if k.w is not None:
      dextra = _join(d.w, C).astype(k.w.dtype)
    elif d.line is not None:
      dextra = d.line[..., 0].astype(keys[2].dtype)
    return _add_up(dq, q), (_add_up(d.a, k.a), dx, dextra)

  def fits(self, n, K, V, H, itemsize):
    """Checks that n rows of K and H V columns fit into the fast memory."""
    width = self._lanes(K)
    width += self._lanes(V * _heads_of_a_tile(H, V, self.width))
    if self.platform == 'gpu':
      return width <= ACCUMULATORS
    return 2 * n * (width + self._lanes(1)) * itemsize <= VMEM  # two buffers

  def _heads(self, keys):
    """Returns H and C."""
    if not _is_shared(keys):
      return 1, 1
    X, H = keys[1].shape[3], keys[2].shape[3]
    return H, H // _heads_of_a_tile(H, X // H, self.width)

  def _keys(self, keys, mask, C):
    """Makes Rows of the keys; padded keys have a bias of MASKED."""
    k, x, extra = keys
    S, w, line = k.shape[2], None, None
    if _is_shared(keys):
      w = _split(extra, C)
    elif extra is not None:
      line = extra[..., None].astype(jnp.float32)
    valid = mask and mask.key_valid
    if line is None and (valid is not None or S % self.block):
      line = jnp.zeros((1, 1, S, 1))
    if valid is not None:
      line = jnp.where(valid[:, None, :, None], line, MASKED)
    segment = _line(mask and mask.kv_segments)
    return Rows(k, _split(x, C), w, line=line, segment=segment)

  def _call(self, kernel, precision, own, other, like, mask, queries=True):
    """Runs a kernel for each block of `own`, against all blocks of `other`.

    Args:
      kernel: a kernel of flash_tiles, which takes references.
      precision: precision of the matrix products.
      own: Rows of the side whose blocks are computed, queries or keys.
      other: Rows of the other side.
      like: Rows of the widths of the results.
      mask: masks.Mask or None.
      queries: whether `own` are the queries.

    Returns:
      Rows, float32 [B, N, n, width].
    """
    n, b = own.a.shape[2], self.block
    causal = mask is not None and mask.causal
    fill = (jnp.inf, MASKED) if queries else (MASKED, jnp.inf)
    own, other = self._pad(own, fill[0]), self._pad(other, fill[1])
    # The lines of the other side lie along the lanes.
    other = other.map(lambda x: x, lambda x: x.swapaxes(2, 3))
    padded = like.map(self._lanes, lambda width: width)
    kernel = functools.partial(
      kernel, queries=queries, causal=causal, precision=precision
    )
    blocks = own.a.shape[2] // b, other.a.shape[2] // b
    tiles = flash_tiles.tiles(*blocks, queries, causal)
    run = functools.partial(self._tiles, kernel, padded, tiles)
    if jax.device_count() > 1:
      run = functools.partial(flash_devices.over_examples, run)
    out = run(own, other)
    return jax.tree.map(lambda x, width: x[:, :, :n, :width], out, like)

  def _tiles(self, kernel, like, tiles, own, other):
    """Makes the Pallas call; `tiles` is the number of tiles for each head."""
    arrays, b = jax.tree.leaves((own[:3], other[:3])), self.block
    B, N = (max(x.shape[i] for x in arrays) for i in (0, 1))
    n = own.a.shape[2]
    shapes = jax.tree.map(
      lambda width: jax.ShapeDtypeStruct((B, N, n, width), jnp.float32), like
    )
    blocks = lambda x: _spec(x.shape, N, b)
    whole = lambda x: _spec(x.shape, N)
    return pl.pallas_call(
      kernel,
      grid=(B * N, n // b),
      in_specs=[jax.tree.map(blocks, own), jax.tree.map(whole, other)],
      out_specs=[jax.tree.map(blocks, shapes)],
      out_shape=[shapes],
      interpret=self.platform == 'interpret',
      compiler_params=COMPILER.get(self.platform),
      cost_estimate=_cost(own, other, shapes, B * N * b**2 * tiles),
    )(own, other)[0]

  def _pad(self, rows, fill):
    """Pads rows to blocks and widths to lanes, and lines with `fill`."""

    def pad(x, width, fill=0):
      more = [(0, 0), (0, 0), (0, -x.shape[2] % self.block), (0, width)]
      return jnp.pad(x, more, constant_values=fill)

    def wide(x):
      return pad(x, self._lanes(x.shape[3]) - x.shape[3])

    padded = rows.map(wide, lambda x: pad(x, 0))
    if rows.line is None:
      return padded
    return padded._replace(line=pad(rows.line, 0, fill))

  def _lanes(self, width):
    """Pads a width: to vectors of 128, in Triton to powers of two."""
    if self.platform == 'tpu':
      return -(-width // 128) * 128
    return max(16, pl.next_power_of_2(width))


# A backend without an entry runs XLA.
BACKENDS = {'tpu': Flash('tpu', 128, 1024), 'gpu': Flash('gpu', 64, 128)}
# Mosaic has no float16, and no precision between DEFAULT and HIGHEST.
DTYPES = {
  'tpu': {'float32', 'bfloat16'},
  'gpu': {'float32', 'bfloat16', 'float16'},
}
PRECISIONS = ('default', 'highest')
VMEM = 8 << 20  # bytes for the rows that a loop reads, half of a TPU core's
ACCUMULATORS = 256  # most columns of a GPU block, in float32 registers


def plan(q, k, v, mask, H, rate, precision):
  """Chooses the Flash for these inputs on this backend, or None to run in XLA.

  Returns None on CPU; with symbolic sizes, dropout, dense masks or positions of
  queries; if the kernels do not support the dtype or the precision; and if
  there is less than a block of queries or keys, or if rows do not fit into the
  fast memory.

  Args:
    q, k, v, mask, rate, precision: as in kernels.attend.
    H: number of heads that share a tile.
  """
  flash = BACKENDS.get(jax.default_backend())
  (T, K), (S, V) = q.shape[1::2], v.shape[1::2]
  if flash is None or rate or blocks.is_symbolic(*q.shape, *k.shape):
    return None
  precision = precision or jax.config.jax_default_matmul_precision or 'default'
  precision = getattr(precision, 'name', precision)
  fits = (
    not (mask and (mask.dense is not None or mask.q_positions is not None))
    and str(precision).lower() in PRECISIONS
    and {x.dtype.name for x in (q, k, v)} <= DTYPES[flash.platform]
    and q.dtype == k.dtype
    and min(T, S) >= flash.block
    and flash.fits(max(T, S), K, V, H, q.dtype.itemsize)
  )
  return flash if fits else None


def _is_shared(keys):
  """Tells keys (k, u, w) of shared scores from (k, v, key_bias)."""
  return keys[2] is not None and keys[2].ndim == 4


def _line(x):
  """Reshapes [B, n] -> [B, 1, n, 1], or returns None."""
  return None if x is None else x[:, None, :, None].astype(jnp.int32)


def _split(x, C):
  """Reshapes [B, N, n, C c] -> [B, N C, n, c]."""
  B, N, n, _ = x.shape
  return x.reshape(B, N, n, C, -1).swapaxes(2, 3).reshape(B, N * C, n, -1)


def _join(x, C):
  """Reshapes [B, N C, n, c] -> [B, N, n, C c]."""
  B, N, n, c = x.shape
  return x.reshape(B, N // C, C, n, c).swapaxes(2, 3).reshape(B, -1, n, C * c)


def _add_up(d, like):
  """Sums over the heads of a group: [B, N, n, w] -> [B, G, n, w]."""
  B, G, n, w = like.shape
  return d.reshape(B, G, -1, n, w).sum(2).astype(like.dtype)


def _spec(shape, N, block=None):
  """Specifies the rows of [B|1, G, n, w] for a head: block i, or all."""
  B, G, n, w = shape

  def index(bn, i):
    b, head = lax.div(bn, N), lax.rem(bn, N)
    return b if B > 1 else 0, lax.div(head, N // G), i if block else 0, 0

  return pl.BlockSpec((None, None, block or n, w), index)


def _cost(own, other, out, pairs):
  """Estimates the cost: 2 m n k a product, one exponential a query-key pair."""
  arrays = jax.tree.leaves((own, other, out))
  widths = sum(x.shape[3] for x in (*own[:3], *out[:3]) if x is not None)
  return pl.CostEstimate(
    flops=2 * pairs * widths,
    transcendentals=pairs,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )


def _heads_of_a_tile(H, V, width):
  """Returns how many of H heads of V columns share a tile, at least one."""
  return max(c for c in range(1, H + 1) if not H % c and c * V <= max(V, width))
