# SPDX-License-Identifier: Apache-2.0
"""The layer for NNX: names and arguments of flax.nnx.MultiHeadAttention."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from collab import attention


class MultiHeadAttention(nnx.bridge.ToNNX):
  """Any variant of attention as an NNX module.

    layer = MultiHeadAttention(8, 64, variant='mhe_mul', rngs=nnx.Rngs(0))
    y = layer(x, mask=attention.Mask(causal=True))

  Parameters are nnx.Param under the names of `attention.Attention`, which for
  mha are those of nnx.MultiHeadAttention. With decode=True calls append to the
  cache that `init_cache` makes, and attend to it.

  Args:
    num_heads: H.
    in_features: width of inputs_q.
    qkv_features: H times the width of a head, default in_features.
    out_features: width of the result, default in_features.
    in_kv_features: width of inputs_k and inputs_v, default in_features.
    variant: one of `attention.names()`, or the import path of a class.
    rngs: of parameters, and of dropout.
    **fields: other fields of `attention.build`.
  """

  def __init__(
    self,
    num_heads: int,
    in_features: int,
    qkv_features: int | None = None,
    out_features: int | None = None,
    in_kv_features: int | None = None,
    *,
    variant: str = 'mha',
    rngs: nnx.Rngs,
    **fields: Any,
  ):
    features = dict(qkv_features=qkv_features, out_features=out_features)
    layer = attention.build(variant, num_heads=num_heads, **features, **fields)
    super().__init__(layer.clone(decode=False), rngs=rngs)
    x = [jnp.zeros((1, 1, in_features))]
    if in_kv_features is not None:
      x.append(jnp.zeros((1, 1, in_kv_features)))
    self.lazy_init(*x, deterministic=True)
    self.to_nnx__module = layer

  def __call__(
    self, *inputs: jax.Array, sow_weights: bool = False, **arguments: Any
  ) -> jax.Array:
    """Attends as `attention.Attention` does, with the same arguments.

    Raises:
      ValueError: decode=True, and there is no cache; or as the layer.
    """
    mutable = ['intermediates'] * sow_weights
    if self.to_nnx__module.decode:
      if not hasattr(self, 'past'):
        raise ValueError('Call init_cache before decoding.')
      mutable.append('cache')
    arguments |= dict(sow_weights=sow_weights, mutable=mutable or False)
    return super().__call__(*inputs, **arguments)

  def init_cache(
    self, input_shape: tuple[int, ...], dtype: Any = jnp.float32
  ) -> None:
    """Makes an empty cache for inputs [*batch, length, in_features]."""
    layer = self.to_nnx__module.clone(decode=True)
    x = jax.ShapeDtypeStruct(input_shape, dtype)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)['cache']['past']
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    self.past = nnx.Cache(empty)
