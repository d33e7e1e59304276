# SPDX-License-Identifier: Apache-2.0
"""Which key may each query see? A description that kernels realise in blocks.

Axes: B batch, H heads, T queries, S keys.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp


@struct.dataclass
class Mask:
  """Query t may see key s if every part that is given says so.

    causal       s <= q_positions[b, t]  (key s stands at position s)
    key_valid    key_valid[b, s]
    segments     q_segments[b, t] == kv_segments[b, s]
    dense        dense[b, h, t, s]

  Nothing of size T x S is formed but `dense`, which is what linen calls a mask;
  `causal` alone lets a kernel leave out the keys that nobody sees.

  Attributes:
    causal: a Python bool.
    key_valid: bool [B|1, S], False where the key is padding.
    q_segments: int [B|1, T], which sequence of a packed row the query is of.
    kv_segments: int [B|1, S]; None stands for q_segments (self-attention).
    q_positions: int [B|1, T], default 0, 1, ..., T-1; only causal looks at it.
    dense: bool [B|1, H|1, T|1, S|1].
  """

  causal: bool = struct.field(pytree_node=False, default=False)
  key_valid: jax.Array | None = None
  q_segments: jax.Array | None = None
  kv_segments: jax.Array | None = None
  q_positions: jax.Array | None = None
  dense: jax.Array | None = None

  def block(self, start, size, stop):
    """Allowed pairs of queries start..start+size and keys 0..stop.

    Args:
      start: first query, an int or a traced scalar.
      size: number of queries, an int.
      stop: number of keys, an int.

    Returns:
      bool [B|1, H|1, size, stop], or None if every pair is allowed.
    """

    def rows(x, axis):
      return lax.dynamic_slice_in_dim(x, start, size, axis)

    parts = []
    if self.causal:
      if self.q_positions is None:
        positions = (start + jnp.arange(size))[None]
      else:
        positions = rows(self.q_positions, 1)
      parts.append(
        (jnp.arange(stop)[None, None] <= positions[..., None])[:, None]
      )
    if self.key_valid is not None:
      parts.append(self.key_valid[:, None, None, :stop])
    if self.q_segments is not None:
      q, kv = rows(self.q_segments, 1), self.kv_segments[:, :stop]
      parts.append((q[:, :, None] == kv[:, None, :])[:, None])
    if self.dense is not None:
      dense = self.dense[..., :stop]
      parts.append(dense if dense.shape[2] == 1 else rows(dense, 2))
    if not parts:
      return None
    allowed = parts[0]
    for part in parts[1:]:
      allowed &= part
    return allowed

  @property
  def per_head(self):
    """Heads may see different keys."""
    return self.dense is not None and self.dense.shape[1] > 1

  @property
  def plain_causal(self):
    """Causal over positions 0, 1, ... and nothing else."""
    return self.causal and not jax.tree.leaves(self)

  def visible(self):
    """Keys that some query of some head may see, bool [B|1, S|1], or None.

    Segments and causality do not count: under them each key sees itself.
    """
    seen = self.key_valid
    if self.dense is not None:
      dense = self.dense.any((1, 2))
      seen = dense if seen is None else seen & dense
    return seen

  def pad_rows(self, extra):
    """Appends `extra` queries, whose outputs the caller throws away."""

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


def flatten(mask, batch):
  """A mask [*batch, H, T, S] as [B, H, T, S]; descriptions are flat already."""
  if mask is None or isinstance(mask, Mask) or len(batch) == 1:
    return mask
  mask = jnp.asarray(mask)
  if mask.ndim <= 3:
    return mask
  mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))
  return mask.reshape(-1, *mask.shape[-3:])


def check(mask, B, H, T, S):
  """Brings what the user gave to a Mask (or None) of known shapes.

  Args:
    mask: None, a Mask, or a bool array that broadcasts to [B, H, T, S].
    B, H, T, S: batch, heads, queries and keys of the call.

  Returns:
    None if everything is visible, or a Mask.

  Raises:
    ValueError: a part of the mask does not broadcast to its shape.
  """
  if mask is None:
    return None
  if not isinstance(mask, Mask):
    mask = Mask(dense=jnp.asarray(mask))
  if mask.q_segments is not None and mask.kv_segments is None:
    mask = mask.replace(kv_segments=mask.q_segments)
  if mask.kv_segments is not None and mask.q_segments is None:
    raise ValueError('Mask has kv_segments but no q_segments.')
  if mask.q_positions is not None and not mask.causal:
    raise ValueError('Mask has q_positions, which only causal=True looks at.')
  if mask.dense is not None:
    dense = mask.dense
    while dense.ndim < 4:
      dense = dense[None]
    mask = mask.replace(dense=dense.astype(bool))
  expected = dict(
    key_valid=(B, S),
    q_segments=(B, T),
    kv_segments=(B, S),
    q_positions=(B, T),
    dense=(B, H, T, S),
  )
  for name, shape in expected.items():
    got = getattr(mask, name)
    if got is None:
      continue
    free = range(4) if name == 'dense' else (0,)
    fits = len(got.shape) == len(shape) and all(
      n == m or (n == 1 and i in free)
      for i, (n, m) in enumerate(zip(got.shape, shape, strict=True))
    )
    if not fits:
      raise ValueError(
        f'mask{"" if name == "dense" else "." + name} has shape '
        f'{tuple(got.shape)}, expected {shape} or 1 in places that broadcast '
        '(batch, heads, queries, keys of this call).'
      )
  return mask if mask.causal or jax.tree.leaves(mask) else None
