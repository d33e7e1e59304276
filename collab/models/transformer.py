# SPDX-License-Identifier: Apache-2.0
"""The transformer layer, written once and used by all models.

`BlockConfig` says what a block is, `Block` computes it, `Stack` runs many.
Dropout is on where `apply` is given a 'dropout' random key, and off elsewhere;
no flag is handed down. Axes: B batch, T queries, S memory, D model.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import core
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from collab import attention
from collab.models import layers


class Place(NamedTuple):
  """Where a model has attention layers, for accounting.

  Attributes:
    name: 'encoder', 'decoder' or 'cross'.
    field: of the model's config that says which attention it is.
    fields: of the attention; a tuple has a value for each layer.
    layers: how many have parameters of their own.
    causal: a decoder's self-attention, which keeps a cache.
    cross: attends to a memory, and keeps that in a cache.
    runs: how often each layer runs, num_layers where layers are shared.
  """

  name: str
  field: str
  fields: Mapping
  layers: int
  causal: bool = False
  cross: bool = False
  runs: int = 1

  def each(self):
    """Fields of the attention of each layer with parameters of its own."""
    n = self.layers
    return [layers.of_layer(self.fields, i, n) for i in range(n)]


# What the backward pass computes again: what its policy does not save.
REMAT = dict(
  none=jax.checkpoint_policies.everything_saveable,
  dots=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  full=jax.checkpoint_policies.nothing_saveable,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """What a transformer block is; the one place for a field of all blocks.

  A tuple, at any depth, has a value for each layer: shared_dim=(96, 64, 64) of
  an attention.

  Attributes:
    attention: fields of `attention.build`, with its name.
    cross_attention: likewise, or None for a block without memory.
    mlp: one of layers.MLPS.
    mlp_dim: width of the MLP's hidden layer.
    activation: one of layers.ACTIVATIONS.
    norm: where norms are, 'post' or 'pre'.
    norm_kind: one of layers.NORMS.
    epsilon: of the norms.
    dropout: of the result of attention and MLP.
    attention_dropout: of attention weights.
    activation_dropout: of the MLP's hidden layer.
    dtype: of the computation.
  """

  attention: Mapping
  cross_attention: Mapping | None = None
  mlp: str = 'dense'
  mlp_dim: int = 2048
  activation: str = 'relu'
  norm: str = 'post'
  norm_kind: str = 'layer'
  epsilon: float = 1e-6
  dropout: float = 0.0
  attention_dropout: float = 0.0
  activation_dropout: float = 0.0
  dtype: Any = None

  def __post_init__(self):
    for name in ('attention', 'cross_attention'):  # so that it has a hash
      if (fields := getattr(self, name)) is not None:
        object.__setattr__(self, name, core.freeze(dict(fields)))
    layers.choose('mlp', self.mlp, layers.MLPS)
    layers.choose('activation', self.activation, layers.ACTIVATIONS)
    layers.choose('norm', self.norm, dict(post=None, pre=None))
    layers.choose('norm_kind', self.norm_kind, layers.NORMS)

  @classmethod
  def names(cls):
    """The names of the fields."""
    return [field.name for field in dataclasses.fields(cls)]

  def of_layer(self, i, n):
    """The config of layer i of n; ValueError if a tuple is not of n values."""
    fields = {name: getattr(self, name) for name in self.names()}
    return BlockConfig(**layers.of_layer(fields, i, n))

  def make_norm(self, **options):
    """A norm as the block's own."""
    norm = layers.NORMS[self.norm_kind]
    return norm(epsilon=self.epsilon, dtype=self.dtype, **options)


class Block(nn.Module):
  """Self-attention, cross attention if it has a memory, and an MLP.

    post: x = norm(x + f(x));   pre: x = x + f(norm(x))

  for each f in turn, f(x) with dropout on its result, and stochastic depth.

  Attributes:
    config: BlockConfig of this layer.
    decode: keep caches, see attention.Attention.
  """

  config: BlockConfig
  decode: bool = False

  def setup(self):
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

  @nn.compact
  def __call__(
    self,
    x,
    memory=None,
    mask=None,
    memory_mask=None,
    lengths=None,
    positions=None,
    memory_positions=None,
    drop_path=None,
  ):
    """[B, T, D] -> [B, T, D].

    Args:
      x: [B, T, D].
      memory: [B, S, D], None for a block without, or when its cache holds it.
      mask: of self-attention.
      memory_mask: of cross attention.
      lengths: int [B] of real tokens when decoding, see attention.Attention.
      positions: int [B|1, T] of x, likewise.
      memory_positions: int [B|1, S] of the memory, likewise.
      drop_path: probability of leaving f out, for each example and f.
    """
    config, deterministic = self.config, not self.has_rng('dropout')
    dropout = nn.Dropout(config.dropout, deterministic=deterministic)

    def drop(x):
      x = dropout(x)
      if deterministic or drop_path is None:
        return x
      return layers.drop_path(self.make_rng('dropout'), x, drop_path)

    def residual(x, norm, f):
      if config.norm == 'pre':
        return x + drop(f(norm(x)))
      return norm(x + drop(f(x)))

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
      # Tokens as one axis: XLA's CPU backend takes up to 3 times as long for
      # the gradient of a kernel when it contracts two.
      flat = x.reshape(-1, x.shape[-1])
      return layers.MLPS[config.mlp](config, flat, deterministic).reshape(
        x.shape
      )

    x = residual(x, self.self_norm, attend)
    if config.cross_attention is not None:
      x = residual(x, self.cross_norm, attend_to_memory)
    return residual(x, self.mlp_norm, mlp)

  def prefill_memory(self, memory, lengths=None):
    self.cross.prefill_memory(memory, lengths=lengths)


class Stack(nn.Module):
  """num_layers Blocks, and a last norm if they are pre-norm.

  The parameters are layer_0, layer_1, ... whatever `scan` does, in memory as on
  disk: a scan stacks them on the way in, which costs one copy of them a step
  and saves compile time.

  Attributes:
    num_layers: number of blocks.
    block: BlockConfig of all layers.
    scan: run the blocks as a lax.scan; they have to be alike.
    remat: what the backward pass computes again: 'none'; 'dots', all but the
      products with parameters, little time for most of the memory; 'full', each
      block from its input, a forward pass more for all of it. XLA's CPU backend
      saves memory only with `scan`, as it may undo the rest.
    drop_path: probability of leaving an f of the last block out; from 0 at the
      first it grows evenly (Huang et al., 2016, stochastic depth).
    shared: one block's parameters, layer_0, serve all layers (ALBERT). They
      would share a cache too: not for decoding.
    decode: keep caches.
  """

  num_layers: int
  block: BlockConfig
  scan: bool = False
  remat: str = 'none'
  drop_path: float = 0.0
  shared: bool = False
  decode: bool = False

  def setup(self):
    layers.choose('remat', self.remat, REMAT)
    if not 0 <= self.drop_path < 1:
      raise ValueError(f'drop_path must be 0 to below 1, got {self.drop_path}.')
    n = 1 if self.shared else self.num_layers
    blocks = [self.block.of_layer(i, n) for i in range(n)]
    if self.scan and any(block != blocks[0] for block in blocks):
      raise ValueError(
        'scan=True needs layers alike, but fields of attention differ.'
      )
    self.layer = [Block(block, self.decode) for block in blocks]
    if self.block.norm == 'pre':
      self.norm = self.block.make_norm()

  def __call__(self, x, *args, **kwargs):
    """As Block."""
    blocks = [*self.layer] * (self.num_layers if self.shared else 1)
    rates = [None] * self.num_layers
    if self.drop_path:
      rates = list(np.linspace(0, self.drop_path, self.num_layers))
    transformed = self.scan or self.remat != 'none'
    if self.is_initializing() or self.decode or not transformed:
      for block, rate in zip(blocks, rates, strict=True):
        x = block(x, *args, **kwargs, drop_path=rate)
    else:
      x = self._functional(x, blocks, rates, args, kwargs)
    return self.norm(x) if self.block.norm == 'pre' else x

  def _functional(self, x, blocks, rates, args, kwargs):
    """The blocks as calls of pure functions, for lax.scan and remat."""

    def pure(block):
      block = block.clone(parent=None)

      def run(x, layer):
        params, key, rate = layer
        rngs = {} if key is None else {'dropout': key}
        x = block.apply(
          {'params': params}, x, *args, **kwargs, drop_path=rate, rngs=rngs
        )
        return x, None

      if self.remat == 'none':
        return run
      return jax.checkpoint(run, policy=REMAT[self.remat])

    params = [block.variables['params'] for block in blocks]
    keys = [None] * len(params)
    if self.has_rng('dropout'):
      keys = list(jax.random.split(self.make_rng('dropout'), len(params)))
    parts = list(zip(params, keys, rates, strict=True))
    if self.scan:
      stacked = jax.tree.map(lambda *x: jnp.stack(x), *parts)
      return jax.lax.scan(pure(blocks[0]), x, stacked)[0]
    for block, layer in zip(blocks, parts, strict=True):
      x, _ = pure(block)(x, layer)
    return x

  def prefill_memory(self, memory, lengths=None):
    for layer in self.layer:
      layer.prefill_memory(memory, lengths)
