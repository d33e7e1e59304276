# SPDX-License-Identifier: Apache-2.0
"""Describes which keys each query may see; kernels evaluate masks in blocks.

Axes: B batch, H heads, T queries, S keys.
"""

import functools
import operator

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from collab.attention import arguments
from collab.attention.heads import Heads


@struct.dataclass
class Mask:
  """A mask, by which query t may see key s if every given part allows it.

    causal       s <= q_positions[b, t]  (key s stands at position s)
    window       s > q_positions[b, t] - window
    key_valid    key_valid[b, s]
    segments     q_segments[b, t] == kv_segments[b, s]
    dense        dense[b, h, t, s]

  Only `dense`, linen's kind of mask, has size T x S. `causal` and `window` let
  a kernel skip the keys that nobody sees, where q_positions is None.

  Attributes:
    causal: a Python bool.
    key_valid: bool [B|1, S], False where the key is padding.
    q_segments: int [B|1, T], the sequence in a packed row that a query is part
      of.
    kv_segments: int [B|1, S]; None means q_segments (self-attention).
    q_positions: int [B|1, T], default offset, offset + 1, ...; only causal and
      window use it.
    dense: bool [B|1, H|1, T|1, S|1].
    window: a Python int, how many keys a query sees: itself and those before.
      It needs causal.
    offset: a Python int, the position of the first query.

  In a call, B may be several axes ([*batch, S] and so on) or already one.
  """

  causal: bool = struct.field(pytree_node=False, default=False)
  key_valid: jax.Array | None = None
  q_segments: jax.Array | None = None
  kv_segments: jax.Array | None = None
  q_positions: jax.Array | None = None
  dense: jax.Array | None = None
  window: int | None = struct.field(pytree_node=False, default=None)
  offset: int = struct.field(pytree_node=False, default=0)

  def block(
    self, start: int | jax.Array, size: int, stop: int, first: int = 0
  ) -> jax.Array | None:
    """Returns which of queries start..start+size see which keys first..stop.

    Args:
      start: first query, an int or a traced scalar.
      size: number of queries, an int.
      stop: end of the keys, an int.
      first: first key, an int.

    Returns:
      bool [B|1, H|1, size, stop - first], or None if every pair is allowed.
    """

    def rows(x, axis):
      return lax.dynamic_slice_in_dim(x, start, size, axis)

    parts = []
    if self.causal:
      if self.q_positions is None:
        positions = (start + jnp.arange(size))[None]
        if self.offset:
          positions += self.offset
      else:
        positions = rows(self.q_positions, 1)
      places = jnp.arange(first, stop)[None, None]
      seen = places <= positions[..., None]
      if self.window is not None:
        seen &= places > positions[..., None] - self.window
      parts.append(seen[:, None])
    if self.key_valid is not None:
      parts.append(self.key_valid[:, None, None, first:stop])
    if self.q_segments is not None:
      q, kv = rows(self.q_segments, 1), self.kv_segments[:, first:stop]
      parts.append((q[:, :, None] == kv[:, None, :])[:, None])
    if self.dense is not None:
      dense = self.dense
      if dense.shape[3] > 1:
        dense = dense[..., first:stop]
      parts.append(dense if dense.shape[2] == 1 else rows(dense, 2))
    return functools.reduce(operator.and_, parts) if parts else None

  @property
  def per_head(self) -> bool:
    """Whether heads may see different keys."""
    return self.dense is not None and self.dense.shape[1] > 1

  def visible(self) -> jax.Array | None:
    """Returns the keys that some query may see: bool [B|1, S|1], None for all.

    Segments and causality do not count, because under them each key sees
    itself.
    """
    seen = self.key_valid
    if self.dense is not None:
      dense = self.dense.any((1, 2))
      seen = dense if seen is None else seen & dense
    return seen

  def prefix(self, stop: int) -> 'Mask':
    """Returns the mask of the keys 0..stop."""

    def cut(x):
      return x if x is None or x.shape[-1] == 1 else x[..., :stop]

    return self.replace(
      key_valid=cut(self.key_valid),
      kv_segments=cut(self.kv_segments),
      dense=cut(self.dense),
    )

  def pad_rows(self, extra: int) -> 'Mask':
    """Appends `extra` queries, whose outputs the caller discards."""

    def pad(x, axis):
      if x is None or not extra or x.shape[axis] == 1:
        return x
      widths = [(0, extra if i == axis else 0) for i in range(x.ndim)]
      return jnp.pad(x, widths)

    return self.replace(
      q_segments=pad(self.q_segments, 1),
      q_positions=pad(self.q_positions, 1),
      dense=pad(self.dense, 2),
    )


def windowed(mask: Mask | jax.Array | None, window: int) -> Mask:
  """Adds a window, and the causality that it needs, to a user's mask.

  Raises:
    ValueError: the mask has another window.
  """
  if not isinstance(mask, Mask):
    mask = Mask(dense=mask)
  if mask.window not in (None, window):
    raise ValueError(
      f'mask.window is {mask.window}, but the layer has window={window}.'
    )
  return mask.replace(causal=True, window=int(window))  # it may be NumPy's


# For each part: its axes after the batch, and the type of its items.
_PARTS = dict(
  key_valid=('S', jnp.bool_),
  q_segments=('T', jnp.integer),
  kv_segments=('S', jnp.integer),
  q_positions=('T', jnp.integer),
  dense=('HTS', jnp.bool_),
)


def check(
  mask: Mask | jax.Array | None, batch: tuple, H: int, T: int, S: int
) -> Mask | None:
  """Converts a user's mask to a Mask (or None) of known shapes.

  Args:
    mask: None, a Mask, or a bool array that broadcasts to [*batch, H, T, S].
    batch: sizes of the batch axes, a tuple.
    H, T, S: numbers of heads, queries and keys in the call.

  Returns:
    None if everything is visible, else a Mask with one batch axis, [B|1, ...].

  Raises:
    TypeError: a part has to be bool, or int, and is not.
    ValueError: a part does not broadcast to its shape, or needs another part.
  """
  if mask is None:
    return None
  if not isinstance(mask, Mask):
    mask = Mask(dense=mask)
  if not isinstance(mask.causal, bool):
    raise TypeError(f'mask.causal is {mask.causal!r}, expected a Python bool.')
  for name, low in (('window', 1), ('offset', 0)):
    got = getattr(mask, name)
    if name == 'window' and got is None:
      continue
    if isinstance(got, bool) or not isinstance(got, int):
      raise TypeError(f'mask.{name} is {got!r}, expected a Python int.')
    if not low <= got < 2**31:  # they are added to positions
      raise ValueError(
        f'mask.{name} is {got}, expected at least {low}, below {2**31}.'
      )
    if got and not mask.causal:
      raise ValueError(f'Mask has {name}, which needs causal=True.')
  if mask.q_segments is not None and mask.kv_segments is None:
    mask = mask.replace(kv_segments=mask.q_segments)
  if mask.kv_segments is not None and mask.q_segments is None:
    raise ValueError('Mask has kv_segments but no q_segments.')
  if mask.q_positions is not None and not mask.causal:
    raise ValueError('Mask has q_positions, which only causal=True looks at.')
  sizes, parts = dict(H=H, T=T, S=S), {}
  for name, (axes, kind) in _PARTS.items():
    if (part := getattr(mask, name)) is not None:
      label = 'mask' if name == 'dense' else f'mask.{name}'
      shape = tuple(sizes[axis] for axis in axes)
      part = arguments.typed(label, part, kind)
      parts[name] = arguments.flat(label, part, batch, shape)
  mask = mask.replace(**parts)
  return mask if mask.causal or jax.tree.leaves(mask) else None


def hide(mask: Mask | None, h: Heads, name: str) -> Heads:
  """Zeroes keys and values that the mask hides, for variants that mix tokens.

  Raises:
    ValueError: the mask of `name`, a variant, has more than key_valid.
  """
  if mask is None:
    return h
  given = {part: getattr(mask, part) for part in _PARTS if part != 'key_valid'}
  given['causal'] = mask.causal or None
  if more := [part for part, x in given.items() if x is not None]:
    raise ValueError(
      f'{name} mixes keys of all places: its mask may only have key_valid, got '
      f'{", ".join(more)}.'
    )
  seen = mask.key_valid[:, :, None, None]
  return h._replace(
    k=jnp.where(seen, h.k, 0), v=h.v if h.v is None else jnp.where(seen, h.v, 0)
  )
