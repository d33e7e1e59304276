# SPDX-License-Identifier: Apache-2.0
"""Values of heads with widths of their own: side by side, or padded.

Parameters and caches have them side by side, [..., sum V_h], without padding.
Kernels take one width, [..., H, max V_h]: the narrower heads end in zeros.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def pad(x: jax.Array, widths: Sequence[int]) -> jax.Array:
  """Pads the heads with zeros: [..., sum V_h] -> [..., H, max V_h]."""
  parts = jnp.split(x, np.cumsum(widths)[:-1], -1)
  rest = [(0, 0)] * (x.ndim - 1)
  return jnp.stack(
    [
      jnp.pad(part, [*rest, (0, max(widths) - width)])
      for part, width in zip(parts, widths, strict=True)
    ],
    -2,
  )


def join(x: jax.Array, widths: Sequence[int]) -> jax.Array:
  """Takes the padding away: [..., H, max V_h] -> [..., sum V_h]."""
  heads = [x[..., h, :width] for h, width in enumerate(widths)]
  return jnp.concatenate(heads, -1)
