# SPDX-License-Identifier: Apache-2.0
"""The vision transformer. Axes: B batch, S image side, P patch, C channels."""

from collections.abc import Mapping
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.models import layers
from collab.models.stack import Stack
from collab.models.transformer import BlockConfig, Place

# Learned tokens before the patches, for each value of `distillation`.
TOKENS = dict(
  none=('class',), token=('class', 'distilled'), head=('class', 'distilled')
)

POOLS = ('class', 'class_mean')


class ViT(nn.Module):
  """ViT and DeiT: patches and a class token, with a linear head.

  arXiv 2010.11929 and 2012.12877.

  Attributes:
    outputs: number of classes, 0 for no head.
    image_size: S, the side of the square images.
    block: BlockConfig.
    channels: C.
    patch: P, divides S.
    pool: what the head reads, 'class' for the class token, or 'class_mean' for
      it and the mean of the patches beside it (DINOv2, arXiv 2304.07193).
    distillation: DeiT's second token: 'none'; 'token', which no head reads; or
      'head', whose own head's logits are averaged with the class token's.
    dim: D.
    num_layers: number of blocks.
    drop_path, scan, remat: as in stack.Stack.
  """

  READS: ClassVar[str] = 'images'
  BLOCK: ClassVar[dict] = dict(mlp_dim=3072, activation='gelu', norm='pre')

  outputs: int
  image_size: int
  block: BlockConfig
  channels: int = 3
  patch: int = 16
  pool: str = 'class'
  distillation: str = 'none'
  dim: int = 768
  num_layers: int = 12
  drop_path: float = 0.0
  scan: bool = False
  remat: str = 'none'

  @property
  def longest(self) -> int:
    return (self.image_size // self.patch) ** 2 + len(TOKENS[self.distillation])

  @nn.nowrap
  def attentions(self) -> list[Place]:
    attention = self.block.attention
    return [Place('encoder', 'attention', attention, self.num_layers)]

  @nn.nowrap
  def example(
    self, rows: int = 1, length: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (rows, self.image_size, self.image_size, self.channels)
    return dict(images=jax.ShapeDtypeStruct(shape, jnp.float32))

  @nn.compact
  def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes logits [B, outputs] from a dict of images, [B, S, S, C].

    Without a head it returns x [B, N, D], first the tokens and then the
    patches.
    """
    layers.choose('distillation', self.distillation, TOKENS)
    layers.choose('pool', self.pool, dict.fromkeys(POOLS))
    x = self._patches(batch['images'])
    x = nn.Dense(self.dim, dtype=self.block.dtype, name='patch')(x)
    x = self._with_tokens(x)
    N = x.shape[1]
    place = layers.Positions('learned', N, name='positions')
    x = place(x, jnp.arange(N)[None])
    deterministic = not self.has_rng('dropout')
    x = layers.Dropout(self.block.dropout, deterministic=deterministic)(x)
    x = Stack(
      self.num_layers,
      self.block,
      self.scan,
      self.remat,
      self.drop_path,
      name='encoder',
    )(x)
    if not self.outputs:
      return x
    read = x[:, 0]
    if self.pool == 'class_mean':
      patches = x[:, len(TOKENS[self.distillation]) :]
      read = jnp.concatenate([read, patches.mean(1)], -1)
    logits = self._head('head')(read)
    if self.distillation == 'head':
      logits = (logits + self._head('distilled_head')(x[:, 1])) / 2
    return logits

  def _with_tokens(self, x):
    """Puts the n learned tokens first: [B, N, D] -> [B, n + N, D]."""
    shape = (x.shape[0], 1, self.dim)
    tokens = [
      self.param(name, nn.initializers.zeros, (1, 1, self.dim))
      for name in TOKENS[self.distillation]
    ]
    tokens = [jnp.broadcast_to(t, shape).astype(x.dtype) for t in tokens]
    return jnp.concatenate([*tokens, x], 1)

  def _head(self, name):
    init = nn.initializers.zeros
    return nn.Dense(
      self.outputs, dtype=self.block.dtype, kernel_init=init, name=name
    )

  def _patches(self, images):
    """Cuts patches, [B, S, S, C] -> [B, (S/P)^2, P P C], like a convolution."""
    B, S, width, C = images.shape
    want = (self.image_size, self.image_size, self.channels)
    if (S, width, C) != want:
      raise ValueError(
        f'Images are {S} x {width} x {C}, expected image_size and channels: '
        f'{" x ".join(map(str, want))}.'
      )
    P = self.patch
    if P < 1 or S % P:
      raise ValueError(f'patch={P} does not divide image_size={S}.')
    n = S // P
    x = images.reshape(B, n, P, n, P, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, n * n, P * P * C)
