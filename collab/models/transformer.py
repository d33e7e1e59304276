# SPDX-License-Identifier: Apache-2.0
"""The transformer block that all models use.

`BlockConfig` defines a block, `Block` computes it, and stack.py runs many.
Dropout is on if `apply` gets a 'dropout' random key, and off otherwise; no flag
is passed down. Axes: B batch, T queries, S memory, D model.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import core
from flax import linen as nn
import jax

from collab import attention
from collab.models import layers


class Place(NamedTuple):
  """A place in a model with attention layers, for accounting.

  Attributes:
    name: 'encoder', 'decoder' or 'cross'.
    field: the field of the model's config that defines this attention.
    fields: fields of the attention; a tuple has a value for each layer.
    layers: number of layers with parameters of their own.
    causal: whether it is a decoder's self-attention, which keeps a cache.
    cross: whether it attends to a memory, and keeps that in a cache.
    packed: whether a row holds several sequences, which it has to keep apart.
    runs: how often each of these layers runs, () for once.
  """

  name: str
  field: str
  fields: Mapping
  layers: int
  causal: bool = False
  cross: bool = False
  packed: bool = False
  runs: Sequence[int] = ()

  def each(self) -> list[dict]:
    """Returns the attention fields of each layer with parameters of its own."""
    n = self.layers
    return [layers.of_layer(self.fields, i, n) for i in range(n)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """The definition of a transformer block, with all fields that blocks have.

  A tuple, at any depth, has a value for each layer: shared_dim=(96, 64, 64) of
  an attention.

  Attributes:
    attention: fields of `attention.build`, including the name.
    cross_attention: the same, or None for a block without memory.
    mlp: one of layers.MLPS.
    mlp_dim: width of the MLP's hidden layer.
    activation: one of layers.ACTIVATIONS.
    use_bias: whether the projections of MLP and attention have biases; the
      fields of an attention may say otherwise.
    norm: position of the norms, 'post', 'pre' or 'both'.
    norm_kind: one of layers.NORMS.
    epsilon: epsilon of the norms.
    layer_scale: initial factor of each channel of the results of attention and
      MLP (arXiv 2103.17239), 0 for no factors.
    dropout: dropout rate of the results of attention and MLP.
    attention_dropout: dropout rate of attention weights.
    activation_dropout: dropout rate of the MLP's hidden layer.
    dtype: dtype of the computation.
  """

  attention: Mapping
  cross_attention: Mapping | None = None
  mlp: str = 'dense'
  mlp_dim: int = 2048
  activation: str = 'relu'
  use_bias: bool = True
  norm: str = 'post'
  norm_kind: str = 'layer'
  epsilon: float = 1e-6
  layer_scale: float = 0.0
  dropout: float = 0.0
  attention_dropout: float = 0.0
  activation_dropout: float = 0.0
  dtype: Any = None

  def __post_init__(self):
    for name in ('attention', 'cross_attention'):  # makes the config hashable
      if (fields := getattr(self, name)) is not None:
        # An empty cross attention stands for the other one, and stays empty.
        own = dict(use_bias=False) if fields and not self.use_bias else {}
        object.__setattr__(self, name, hashable(own | dict(fields)))
    layers.choose('mlp', self.mlp, layers.MLPS)
    layers.choose('activation', self.activation, layers.ACTIVATIONS)
    layers.choose('norm', self.norm, dict.fromkeys(('post', 'pre', 'both')))
    layers.choose('norm_kind', self.norm_kind, layers.NORMS)

  @classmethod
  def of(cls, fields: Mapping) -> tuple[dict, dict]:
    """Splits the fields of a model into a BlockConfig's and the others."""
    own = {field.name for field in dataclasses.fields(cls)}
    rest = {k: x for k, x in fields.items() if k not in own}
    return {k: x for k, x in fields.items() if k in own}, rest

  def of_layer(self, i: int, n: int) -> 'BlockConfig':
    """Returns the config of layer i of n; ValueError for a wrong tuple."""
    return BlockConfig(**layers.of_layer(vars(self), i, n))

  def make_norm(self) -> nn.Module:
    """Makes a norm like the block's own."""
    norm = layers.NORMS[self.norm_kind]
    return norm(epsilon=self.epsilon, dtype=self.dtype)


def hashable(x: Any) -> Any:
  """Freezes mappings, also those in a tuple that has one for each layer."""
  if isinstance(x, Mapping):
    return core.freeze({k: hashable(v) for k, v in x.items()})
  return tuple(map(hashable, x)) if isinstance(x, tuple) else x


class Block(nn.Module):
  """Self-attention, cross attention if it has a memory, and an MLP.

    post: x = norm(x + f(x));   pre: x = x + f(norm(x))
    both: x = x + out_norm(f(norm(x))), as in Gemma (arXiv 2408.00118)

  The formulas apply to each f in turn. The result of f(x) has layer scale,
  dropout and stochastic depth.

  Attributes:
    config: BlockConfig of this layer.
    decode: whether to keep caches, see attention.Attention.
  """

  config: BlockConfig
  decode: bool = False

  def setup(self) -> None:
    config = self.config

    def build(fields):
      return attention.build(
        **fields,
        dtype=config.dtype,
        decode=self.decode,
        dropout_rate=config.attention_dropout,
        kernel_init=layers.BLOCK_INIT,
      )

    self.self_attention = build(config.attention)
    self.self_norm = config.make_norm()
    if config.cross_attention is not None:
      self.cross = build(config.cross_attention)
      self.cross_norm = config.make_norm()
    self.mlp_norm = config.make_norm()
    if config.norm == 'both':
      self.self_out_norm = config.make_norm()
      if config.cross_attention is not None:
        self.cross_out_norm = config.make_norm()
      self.mlp_out_norm = config.make_norm()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    memory: jax.Array | None = None,
    mask: attention.Mask | None = None,
    memory_mask: attention.Mask | None = None,
    lengths: jax.Array | None = None,
    positions: jax.Array | None = None,
    memory_positions: jax.Array | None = None,
    drop_path: float | jax.Array | None = None,
  ) -> jax.Array:
    """Runs the block, [B, T, D] -> [B, T, D].

    Args:
      x: [B, T, D].
      memory: [B, S, D]; None if the block has none, or if its cache holds it.
      mask: mask of self-attention.
      memory_mask: mask of cross attention.
      lengths: int [B], real tokens when decoding, see attention.Attention.
      positions: int [B|1, T] of x, see attention.Attention.
      memory_positions: int [B|1, S] of the memory, see attention.Attention.
      drop_path: probability of dropping f, for each example and f.
    """
    config, deterministic = self.config, not self.has_rng('dropout')
    dropout = layers.Dropout(config.dropout, deterministic=deterministic)

    def drop(x):
      x = dropout(x)
      if deterministic or drop_path is None:
        return x
      return layers.drop_path(self.make_rng('dropout'), x, drop_path)

    def residual(x, part, f):
      norm = getattr(self, f'{part}_norm')
      y = f(x if config.norm == 'post' else norm(x))
      if config.norm == 'both':
        y = getattr(self, f'{part}_out_norm')(y)
      if config.layer_scale:
        init = nn.initializers.constant(config.layer_scale)
        scale = self.param(f'{part}_scale', init, y.shape[-1:])
        y *= scale[None, None].astype(y.dtype)
      x = x + drop(y)
      return norm(x) if config.norm == 'post' else x

    def attend(x):
      return self.self_attention(
        x,
        mask=mask,
        lengths=lengths,
        positions=positions,
        deterministic=deterministic,
      )

    def attend_to_memory(x):
      return self.cross(
        x,
        memory,
        mask=memory_mask,
        positions=positions,
        key_positions=memory_positions,
        deterministic=deterministic,
      )

    def mlp(x):
      # Tokens become one axis: XLA's CPU backend takes up to 3 times as long
      # for a kernel's gradient that contracts two axes.
      flat = x.reshape(-1, x.shape[-1])
      return layers.MLPS[config.mlp](config, flat, deterministic).reshape(
        x.shape
      )

    x = residual(x, 'self', attend)
    if config.cross_attention is not None:
      x = residual(x, 'cross', attend_to_memory)
    return residual(x, 'mlp', mlp)

  def prefill_memory(
    self, memory: jax.Array, lengths: jax.Array | None = None
  ) -> None:
    self.cross.prefill_memory(memory, lengths=lengths)
