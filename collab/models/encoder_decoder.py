# SPDX-License-Identifier: Apache-2.0
"""The encoder-decoder of translation. Axes: B batch, S source, T target."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import Mask
from collab.models import layers
from collab.models.stack import Stack
from collab.models.transformer import BlockConfig, Place


class EncoderDecoder(nn.Module):
  """The Transformer of arXiv 1706.03762, with three choices of attention.

  One embedding serves source, target and output, unless fields say otherwise.

  Attributes:
    vocab_size: V, of the target.
    block: BlockConfig. By default its cross attention, from decoder to encoder,
      is the encoder's attention.
    decoder_attention: the decoder's self-attention, default the encoder's.
    dim: D.
    encoder_layers, decoder_layers: number of blocks.
    positions: 'learned', 'none' or sinusoids, see layers.Positions.
    max_length: number of learned positions, and of tokens when decoding.
    decoder_mlp_dim: the decoder's mlp_dim, 0 for the encoder's.
    source_vocab_size: rows of a table of the source's own, 0 for none.
    tied: whether the target's table also gives the logits.
    scaled: whether embeddings are multiplied by sqrt(D).
    output_bias: whether logits have a bias (Marian).
    scan, remat: as in stack.Stack.
    decode: whether the decoder keeps caches.
  """

  READS: ClassVar[str] = 'pairs'
  BLOCK: ClassVar[dict] = dict(dropout=0.1)

  vocab_size: int
  block: BlockConfig
  decoder_attention: Mapping = ()
  dim: int = 512
  encoder_layers: int = 6
  decoder_layers: int = 6
  positions: str = 'sinusoidal'
  max_length: int = 1024
  decoder_mlp_dim: int = 0
  source_vocab_size: int = 0
  tied: bool = True
  scaled: bool = True
  output_bias: bool = False
  scan: bool = False
  remat: str = 'none'
  decode: bool = False

  @property
  def longest(self) -> int:
    return self.max_length

  @property
  def _decoder_block(self):
    attention = self.block.attention
    return dataclasses.replace(
      self.block,
      attention=self.decoder_attention or attention,
      cross_attention=self.block.cross_attention or attention,
      mlp_dim=self.decoder_mlp_dim or self.block.mlp_dim,
    )

  @nn.nowrap
  def attentions(self) -> list[Place]:
    block, n = self._decoder_block, self.decoder_layers
    encoder, m = self.block.attention, self.encoder_layers
    return [
      Place('encoder', 'attention', encoder, m, packed=True),
      Place('decoder', 'decoder_attention', block.attention, n, causal=True),
      Place('cross', 'cross_attention', block.cross_attention, n, cross=True),
    ]

  @nn.nowrap
  def example(
    self, rows: int = 1, length: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    names = 'source', 'source_segments', 'source_positions'
    names += 'target_inputs', 'target_segments', 'target_positions'
    return dict.fromkeys(names, layers.ints(rows, length))

  @nn.nowrap
  def output_table(self, params: Mapping) -> tuple[jax.Array, jax.Array | None]:
    output = params['embed' if self.tied else 'output']
    return output['embedding'], output.get('bias')

  def setup(self) -> None:
    def table(V, bias=False):
      dtype = self.block.dtype
      return layers.Embed(V, self.dim, dtype, bias, self.scaled)

    self.embed = table(self.vocab_size, self.tied and self.output_bias)
    if not self.tied:
      self.output = table(self.vocab_size, self.output_bias)
    if self.source_vocab_size:
      self.source_embed = table(self.source_vocab_size)
    block = dataclasses.replace(self.block, cross_attention=None)
    self.encoder = Stack(self.encoder_layers, block, self.scan, self.remat)
    self.decoder = Stack(
      self.decoder_layers,
      self._decoder_block,
      self.scan,
      self.remat,
      decode=self.decode,
    )
    self.source_positions = layers.Positions(self.positions, self.max_length)
    self.target_positions = layers.Positions(self.positions, self.max_length)
    self.drop = layers.Dropout(self.block.dropout)

  def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes logits [B, T, V] of packed pairs; see `features`."""
    return self._logits(self.features(batch))

  def features(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the features that give logits, [B, T, D], of packed pairs.

    Args:
      batch: dict of int [B, S]: source, source_segments, source_positions; and
        [B, T]: target_inputs, target_segments, target_positions. Segment 0 is
        padding. Tokens attend within their own segment only.
    """
    memory = self.encode(
      batch['source'], batch['source_segments'], batch['source_positions']
    )
    segments, positions = batch['target_segments'], batch['target_positions']
    return self.decoder(
      self._target(batch['target_inputs'], positions),
      memory,
      Mask(causal=True, q_segments=segments),
      Mask(q_segments=segments, kv_segments=batch['source_segments']),
      positions=positions,
      memory_positions=batch['source_positions'],
    )

  def encode(
    self,
    source: jax.Array,
    segments: jax.Array,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Computes the memory [B, S, D] of source tokens int [B, S]."""
    if positions is None:
      positions = jnp.arange(source.shape[1])[None]
    embed = self.source_embed if self.source_vocab_size else self.embed
    x = self._drop(self.source_positions(embed(source), positions))
    return self.encoder(x, mask=Mask(q_segments=segments), positions=positions)

  def prefill_memory(self, memory: jax.Array, lengths: jax.Array) -> None:
    """Fills the caches with a memory [B, S, D] of `lengths` real tokens."""
    self.decoder.prefill_memory(memory, lengths)

  def next_logits(
    self, tokens: jax.Array, memory: jax.Array | None = None
  ) -> jax.Array:
    """Computes logits [B, n, V] of n more target tokens [B, n] (decode=True).

    At initialisation `memory` sets the size of the caches; otherwise it is
    unused.
    """
    positions = layers.next_positions(self, tokens, tokens.shape[1])
    x = self._target(tokens, positions)
    return self._logits(self.decoder(x, memory, positions=positions))

  def _target(self, tokens, positions):
    return self._drop(self.target_positions(self.embed(tokens), positions))

  def _drop(self, x):
    return self.drop(x, deterministic=not self.has_rng('dropout'))

  def _logits(self, x):
    return (self.embed if self.tied else self.output).logits(x)
