# SPDX-License-Identifier: Apache-2.0
"""What variants make heads with: projections, rotation, norms, parameters.

Axes: B batch, S keys, D model, H heads, G groups, K key width, V value width.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention.fields import Fields


class Projections(Fields):
  """A layer's `Fields`, and the methods with which a variant makes heads."""

  @nn.nowrap
  def head_dim(self, D: int) -> int:
    """Returns d = qkv_features / H for inputs_q of width D."""
    features = self.qkv_features or D
    if self.num_heads < 1 or features % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide qkv_features={features}.'
      )
    return features // self.num_heads

  def project(
    self, name: str, x: jax.Array, features: int | tuple, **options: Any
  ) -> jax.Array:
    """Computes x W + b, with parameters name/kernel and name/bias as in linen.

    `options` go to linen's DenseGeneral and override those of the layer.
    """
    own = dict(
      use_bias=self.use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      precision=self.precision,
    )
    return nn.DenseGeneral(features, name=name, **own | options)(x)

  def values(self, z: jax.Array, width: int) -> jax.Array:
    """Computes z Wv_h for each head, [B, S, D] -> [B, S, H, width].

    With value_dims the heads lie side by side, [B, S, 1, sum V_h].
    """
    if self.value_dims is None:
      return self.project('value', z, (self.num_heads, width))
    return self.project('value', z, sum(self.value_dims))[:, :, None]

  def rotate(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Rotates x [B, S, G, K] by positions [B|1, S], if the layer has rope."""
    if self.rope is None:
      return x
    if positions is None:
      raise ValueError(
        f'{type(self).__name__}.read rotates keys of the cache, which keeps '
        'their positions only for a variant with reads_positions = True.'
      )
    return self.rope.rotate(x, positions)

  def normalize(self, name: str, x: jax.Array) -> jax.Array:
    """Computes the RMS norm of x over its last axis, if qk_norm is set.

    The parameter is {name}_norm/scale, of the width of x.
    """
    if not self.qk_norm:
      return x
    how = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    return nn.RMSNorm(name=f'{name}_norm', **how)(x)

  def vector(
    self, name: str, init: Callable, shape: tuple[int, ...], like: jax.Array
  ) -> jax.Array:
    """Creates a parameter [H, width] in the dtype of `like`."""
    x = self.param(name, init, shape, self.param_dtype)
    return jnp.asarray(x, like.dtype)  # NumPy's promotion rules differ
