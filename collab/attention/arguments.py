# SPDX-License-Identifier: Apache-2.0
"""Validates the arrays of an attention call and flattens their batch axes.

Axes: B batch, T queries, S keys, D width of the inputs.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collab.attention.heads import Positions


def inputs(
  inputs_q: jax.Array, inputs_k: jax.Array | None, inputs_v: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Checks inputs: queries [B, T, D], keys [B, S, D'], values [B, S, D'']."""
  given = dict(inputs_q=inputs_q, inputs_k=inputs_k, inputs_v=inputs_v)
  for name, part in given.items():
    got = getattr(part, 'shape', type(part).__name__)
    if part is not None and (isinstance(got, str) or len(got) < 2):
      raise ValueError(f'{name} is {got}, expected an array [..., T, D].')
  if inputs_k is None and inputs_v is not None:
    raise ValueError('inputs_v needs inputs_k.')
  x = inputs_q
  y = x if inputs_k is None else inputs_k
  z = y if inputs_v is None else inputs_v
  batch = x.shape[:-2]
  for name, part in (('inputs_k', y), ('inputs_v', z)):
    if part.shape[:-1] != (*batch, y.shape[-2]):
      raise ValueError(
        f'{name} has shape {part.shape}, expected {(*batch, y.shape[-2])} '
        'before its width.'
      )
  B = math.prod(batch)
  return tuple(x.reshape(B, *x.shape[-2:]) for x in (x, y, z))


def positions(
  queries: Any,
  keys: Any,
  batch: tuple,
  start: int | jax.Array,
  T: int,
  S: int | None,
) -> Positions:
  """Checks the call's positions [*batch, T] and key_positions [*batch, S].

  Args:
    queries, keys: positions; None means start, start + 1, ...
    batch: sizes of the batch axes.
    start: an int, or int [B, 1].
    T: number of queries.
    S: number of keys, or None where they are the queries' tokens.
  """

  def checked(name, x, n):
    default = start + jnp.arange(n)[None]
    if x is None:
      return default
    return flat(name, typed(name, x, jnp.integer), batch, (n,))

  at = checked('positions', queries, T)
  if S is not None:
    return Positions(at, checked('key_positions', keys, S))
  if keys is not None:
    raise ValueError('key_positions needs inputs_k.')
  return Positions(at, at)


def lengths(x: Any, batch: tuple) -> jax.Array | None:
  """Checks lengths [*batch]; returns int [B], or None for None."""
  if x is None:
    return None
  x = typed('lengths', x, jnp.integer)
  if x.shape != batch:
    raise ValueError(f'lengths has shape {x.shape}, expected {batch}.')
  return x.ravel()


def typed(name: str, x: Any, kind: type) -> jax.Array:
  """Converts x to an array; its items have to be jnp.bool_ or jnp.integer."""
  expected = 'bool, True to attend' if kind is jnp.bool_ else 'int'
  given = x
  try:
    x = jnp.asarray(x)
  except OverflowError as e:
    raise ValueError(f'{name}: {e}.') from e
  except (TypeError, ValueError) as e:  # strings, ragged lists
    raise TypeError(
      f'{name} is a {type(x).__name__}, expected an array of {expected}.'
    ) from e
  if not jnp.issubdtype(x.dtype, kind):
    # A cast would turn an additive mask (0 and -1e9) into its opposite.
    raise TypeError(f'{name} is {x.dtype}, expected {expected}.')
  if kind is not jnp.integer:
    return x
  # The integers get one type, because they are compared and subtracted.
  x = x.astype(int)
  _check_range(name, given, jnp.iinfo(x.dtype))
  return x


def _check_range(name, x, legal):
  """Refuses integers that NumPy holds and JAX's type, of 32 bits, would cut."""
  if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
    return
  x = np.asarray(x)
  if x.size and not legal.min <= int(x.min()) <= int(x.max()) <= legal.max:
    raise ValueError(
      f'{name} has {x.min()} to {x.max()}, expected integers of {legal.bits} '
      'bits.'
    )


def flat(name: str, x: jax.Array, batch: tuple, shape: tuple) -> jax.Array:
  """Reshapes x from [*batch, *shape] to [B|1, *shape]; axes of 1 broadcast.

  Its batch may be one axis already. In a mask per head, whose shape has more
  than one axis, the other axes may broadcast too.
  """
  n, B, dense = len(shape), math.prod(batch), len(shape) > 1
  if dense:  # missing axes also broadcast, as in linen
    x = x.reshape(*[1] * (1 + n - x.ndim), *x.shape)
  lead, own = x.shape[: x.ndim - n], x.shape[x.ndim - n :]
  is_flat = lead in ((1,), (B,))
  if dense and not is_flat:
    lead = (*[1] * (len(batch) - len(lead)), *lead)
  legal = [(1, size) for size in (lead if is_flat else batch)]
  legal += [(1, size) if dense else (size,) for size in shape]
  got = (*lead, *own)
  if len(got) != len(legal) or not all(map(operator.contains, legal, got)):
    raise ValueError(
      f'{name} has shape {tuple(x.shape)}, expected {(*batch, *shape)} or 1 in '
      'places that broadcast (batch, heads, queries, keys of this call).'
    )
  if is_flat:
    return x
  if set(lead) <= {1}:
    return x.reshape(1, *own)
  return jnp.broadcast_to(x, (*batch, *own)).reshape(B, *own)
