# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: each plane of a vector turns by its position times a rate.

Vectors are in the half-split layout of Llama, Qwen and Mistral: plane i of the
K' rotated dimensions is (i, i + K'/2), and a plane is a complex number. So

  rotate(x, t)_i = x_i exp(i t rate_i),  rate_i = base^(-2i / K')

and rotate(q, t) . rotate(k, s) depends on t - s alone. arXiv 2104.09864.

Axes: B batch, S tokens, G heads, K width.
"""

from collections.abc import Mapping
import dataclasses
import inspect
import math
import numbers
from typing import Any

from flax import core
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary positions of queries and keys, and how far they were stretched.

  Attributes:
    base: rate_i is base^(-2i / K').
    fraction: K' / K, the share of a vector's dimensions that rotate: the first.
    scaling: None, or a mapping with `rope_type`, one of SCALINGS, and that
      function's parameters, which are named as in Transformers.
  """

  base: float = 10_000.0
  fraction: float = 1.0
  scaling: Mapping | None = None

  def __post_init__(self):
    for name, low in (('base', 1), ('fraction', 0)):
      value = getattr(self, name)
      if not _is_number(value) or value <= low:
        raise ValueError(f'rope.{name}={value!r}; expected more than {low}.')
    if self.fraction > 1:
      raise ValueError(f'rope.fraction={self.fraction}; expected at most 1.')
    if self.scaling is not None:
      if not isinstance(self.scaling, Mapping):
        raise TypeError(f'rope.scaling={self.scaling!r}; expected a mapping.')
      # A layer with rope is hashable.
      object.__setattr__(self, 'scaling', core.freeze(dict(self.scaling)))
      _check_scaling(**self.scaling)
      self.rates(2)
      if self.scaling['rope_type'] == 'default':  # is none
        object.__setattr__(self, 'scaling', None)

  def rotated(self, K: int) -> int:
    """Returns K', how many dimensions of vectors of width K rotate.

    Raises:
      ValueError: it is not an even number.
    """
    n = self.fraction * K
    if round(n) < 2 or round(n) % 2 or not math.isclose(n, round(n)):
      raise ValueError(
        f'rope rotates planes: fraction={self.fraction} of a width of {K} is '
        f'{n:g}, expected an even number.'
      )
    return round(n)

  def rates(self, K: int) -> tuple[np.ndarray, float]:
    """Returns the rates of K / 2 planes, and what a rotated vector is times."""
    kind = dict(self.scaling or {})
    return SCALINGS[kind.pop('rope_type', 'default')](self.base, K, **kind)

  def rotate(
    self,
    x: jax.Array,
    positions: jax.Array,
    rates: tuple[np.ndarray, float] | None = None,
  ) -> jax.Array:
    """Rotates x [B, S, G, K] by positions, int [B|1, S].

    By default the rates are those of the width K'. The angles are float32, or
    float64 for float64; the result has x's dtype.
    """
    n = self.rotated(x.shape[-1])
    rates, factor = rates or self.rates(n)
    dtype = np.promote_types(x.dtype, np.float32)
    angles = positions[:, :, None, None].astype(dtype)
    angles = angles * jnp.asarray(rates, dtype)[None, None, None]
    turn = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    if factor != 1:
      turn = turn * factor
    turn = lax.optimization_barrier(turn)  # else XLA makes it for each head
    turned = multiply(x[..., :n].astype(dtype), turn).astype(x.dtype)
    return jnp.concatenate([turned, x[..., n:]], -1)

  def conjugate(self, x: jax.Array) -> jax.Array:
    """Conjugates the planes of x [*, K] that rotate."""
    n = self.rotated(x.shape[-1])
    return jnp.concatenate([conjugate(x[..., :n]), x[..., n:]], -1)


def build(rope: Rope | Mapping | None) -> Rope | None:
  """Makes a Rope of a mapping of its fields; a Rope or None is returned.

  Raises:
    TypeError: there is no such field.
  """
  if not isinstance(rope, Mapping):
    return rope
  known = [field.name for field in dataclasses.fields(Rope)]
  if unknown := sorted(rope.keys() - set(known)):
    raise TypeError(
      f'rope has no field {", ".join(unknown)}; it has {", ".join(known)}.'
    )
  return Rope(**rope)


def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
  """Multiplies two vectors [*, K] as K / 2 complex numbers, half-split."""
  K = x.shape[-1]  # a -1 in its place would not do without tokens
  parts = lambda u: jnp.moveaxis(u.reshape(*u.shape[:-1], 2, K // 2), -2, 0)
  (a, b), (c, d) = parts(x), parts(y)
  z = jnp.stack([a * c - b * d, a * d + b * c], -2)
  return z.reshape(*z.shape[:-2], K)


def conjugate(x: jax.Array) -> jax.Array:
  """Conjugates a vector [*, K] of K / 2 complex numbers, half-split."""
  a, b = jnp.split(x, 2, -1)
  return jnp.concatenate([a, -b], -1)


# The scalings -----------------------------------------------------------------
#
# Each returns the rates of K / 2 planes and a factor of the rotated vectors. A
# parameter has the name, meaning and default of Transformers' rope_scaling.


def default(base: float, K: int) -> tuple[np.ndarray, float]:
  """base^(-2i / K)."""
  return base ** (-np.arange(0, K, 2) / K), 1.0


def linear(base: float, K: int, *, factor: float) -> tuple[np.ndarray, float]:
  """Divides all rates by the factor (arXiv 2306.15595)."""
  return default(base, K)[0] / factor, 1.0


def dynamic(
  base: float,
  K: int,
  *,
  factor: float,
  original_max_position_embeddings: float,
  length: float | None = None,
) -> tuple[np.ndarray, float]:
  """Raises the base with the length, beyond the original one (NTK).

  Transformers takes the length of each call. Here it is fixed, by default the
  original one: a rotated key in a cache could not follow it.
  """
  grown = max((length or 0) / original_max_position_embeddings, 1)
  if K > 2:  # the rate of a single plane is 1, whatever the base
    base *= (factor * grown - (factor - 1)) ** (K / (K - 2))
  return default(base, K)


def llama3(
  base: float,
  K: int,
  *,
  factor: float,
  low_freq_factor: float,
  high_freq_factor: float,
  original_max_position_embeddings: float,
) -> tuple[np.ndarray, float]:
  """Divides the slow rates by the factor, and keeps the fast ones.

  A plane is fast if it makes more than high_freq_factor turns in the original
  length, slow below low_freq_factor; in between the share is linear.
  """
  if high_freq_factor <= low_freq_factor:
    raise ValueError(
      f'rope.scaling has high_freq_factor={high_freq_factor}; expected more '
      f'than low_freq_factor={low_freq_factor}.'
    )
  rates, _ = default(base, K)
  turns = rates * original_max_position_embeddings / (2 * math.pi)
  fast = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
  fast = np.clip(fast, 0, 1)
  return rates * (fast + (1 - fast) / factor), 1.0


def yarn(
  base: float,
  K: int,
  *,
  factor: float,
  original_max_position_embeddings: float,
  attention_factor: float | None = None,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
  mscale: float | None = None,
  mscale_all_dim: float | None = None,
  truncate: bool = True,
) -> tuple[np.ndarray, float]:
  """Divides the slow rates by the factor, and raises scores (2309.00071).

  Planes up to the one of beta_fast turns in the original length keep their
  rate, those from beta_slow turns on are slow; in between the share is linear
  in the number of the plane.
  """

  def plane(turns):
    length = original_max_position_embeddings / (2 * math.pi * turns)
    return K * math.log(length) / (2 * math.log(base))

  first, last = plane(beta_fast), plane(beta_slow)
  if truncate:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, K - 1)
  slow = (np.arange(K // 2) - first) / (last - first or 1e-3)
  slow = np.clip(slow, 0, 1)

  def raised(scale):
    return 1 + 0.1 * scale * math.log(factor) if factor > 1 else 1.0

  if attention_factor is None:
    attention_factor = raised(1)
    if mscale and mscale_all_dim:
      attention_factor = raised(mscale) / raised(mscale_all_dim)
  rates, _ = default(base, K)
  return rates * (1 - slow + slow / factor), attention_factor


SCALINGS = dict(
  default=default, linear=linear, dynamic=dynamic, llama3=llama3, yarn=yarn
)


def _check_scaling(rope_type: str | None = None, **parameters: Any) -> None:
  """Checks the name of a scaling and its parameters."""
  if rope_type not in SCALINGS:
    raise ValueError(
      f'rope.scaling has rope_type={rope_type!r}; expected one of '
      f'{", ".join(SCALINGS)}.'
    )
  known = inspect.signature(SCALINGS[rope_type]).parameters
  known = {n: p for n, p in known.items() if p.kind is p.KEYWORD_ONLY}
  needed = {n for n, p in known.items() if p.default is p.empty}
  if parameters.keys() - known.keys() or needed - parameters.keys():
    raise ValueError(
      f'rope.scaling of {rope_type} has {sorted(parameters)}; expected '
      f'{sorted(needed)}, perhaps {sorted(known.keys() - needed)}.'
    )
  for name, value in parameters.items():
    optional = known[name].default
    if isinstance(optional, bool):
      legal, expected = isinstance(value, bool), 'a bool'
    else:
      legal, expected = _is_number(value) and value > 0, 'a number above 0'
    if value is not optional and not legal:
      raise ValueError(
        f'rope.scaling has {name}={value!r}; expected {expected}.'
      )


def _is_number(x):
  real = isinstance(x, numbers.Real) and not isinstance(x, bool)
  return real and math.isfinite(x)
