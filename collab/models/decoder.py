# SPDX-License-Identifier: Apache-2.0
"""The decoder of language models. Axes: B batch, L tokens, V vocabulary."""

from collections.abc import Mapping
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import Mask
from collab.models import layers
from collab.models.stack import Stack
from collab.models.transformer import BlockConfig, Place

HEADS = ('lm', 'classify', 'tag')


class Decoder(nn.Module):
  """A language model in GPT-2's form: causal, pre-norm, tied output.

    logits = Stack(E[tokens] + P) E^T,  or U^T where the output is not tied

  Gemma multiplies E[tokens] by sqrt(D), and bounds logits x by c tanh(x / c).
  A classifier has a linear map of the features instead, see `__call__`.

  Attributes:
    vocab_size: V.
    block: BlockConfig.
    dim: D.
    num_layers: number of blocks.
    tied: whether the embedding table also gives the logits.
    scaled: whether embeddings are multiplied by sqrt(D).
    soft_cap: c, or None for no bound.
    head: 'lm', 'classify' or 'tag'.
    outputs: number of outputs of 'classify' and 'tag'.
    positions: 'learned', 'none' or sinusoids, see layers.Positions.
    max_length: number of learned positions, and of tokens when decoding.
    scan, remat: as in stack.Stack.
    decode: whether to keep caches.
  """

  READS: ClassVar[str] = 'stream'
  BLOCK: ClassVar[dict] = dict(
    mlp_dim=3072, activation='gelu_tanh', norm='pre', epsilon=1e-5, dropout=0.1
  )

  vocab_size: int
  block: BlockConfig
  dim: int = 768
  num_layers: int = 12
  tied: bool = True
  scaled: bool = False
  soft_cap: float | None = None
  head: str = 'lm'
  outputs: int = 0
  positions: str = 'learned'
  max_length: int = 1024
  scan: bool = False
  remat: str = 'none'
  decode: bool = False

  @property
  def longest(self) -> int:
    return self.max_length

  @nn.nowrap
  def attentions(self) -> list[Place]:
    attention = self.block.attention
    return [
      Place('decoder', 'attention', attention, self.num_layers, causal=True)
    ]

  @nn.nowrap
  def example(
    self, rows: int = 1, length: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    return dict(tokens=layers.ints(rows, length))

  @nn.nowrap
  def output_table(self, params: Mapping) -> tuple:
    self._check_lm()
    table = params['embed' if self.tied else 'output']['embedding']
    cap = [] if self.soft_cap is None else [self.soft_cap]
    return table, None, *cap

  def setup(self) -> None:
    dtype = self.block.dtype
    self.embed = layers.table(self.vocab_size, self.dim, dtype)
    if not self.tied:
      self.output = layers.table(self.vocab_size, self.dim, dtype)
    self.place = layers.Positions(
      self.positions, self.max_length, name='positions'
    )
    self.decoder = Stack(
      self.num_layers, self.block, self.scan, self.remat, decode=self.decode
    )
    self.drop = layers.Dropout(self.block.dropout)
    layers.choose('head', self.head, dict.fromkeys(HEADS))
    if self.head != 'lm':
      self.task = nn.Dense(
        self.outputs,
        use_bias=self.head == 'tag',
        dtype=dtype,
        kernel_init=nn.initializers.normal(0.02),
        name='head',
      )

  def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the outputs of the head for tokens.

    Args:
      batch: see `features`; for 'classify' with lengths, int [B], where rows
        are padded on the right.

    Returns:
      'lm': logits [B, L, V]; 'tag': [B, L, outputs]; 'classify': [B, outputs],
      of the last token.
    """
    x = self.features(batch)
    if self.head == 'lm':
      return self._logits(x)
    if self.head == 'classify':
      last = batch['lengths'] - 1 if 'lengths' in batch else x.shape[1] - 1
      x = x[jnp.arange(len(x)), last]
    return self.task(x)

  def features(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the features that the table turns into logits, [B, L, D].

    Args:
      batch: dict of tokens, int [B, L]. Where rows are packed also of segments
        and positions, int [B, L]: tokens attend within their own segment only.
    """
    tokens, segments = batch['tokens'], None
    positions = jnp.arange(tokens.shape[1])[None]
    if 'segments' in batch:
      segments, positions = batch['segments'], batch['positions']
    return self.decoder(
      self._input(tokens, positions),
      mask=Mask(causal=True, q_segments=segments),
      positions=positions,
    )

  def next_logits(
    self, tokens: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """Computes logits [B, n, V] of n more tokens int [B, n] (decode=True).

    Args:
      tokens: int [B, n].
      lengths: int [B], how many of the n are real, padded on the right.
    """
    self._check_lm()
    new = tokens.shape[1] if lengths is None else lengths
    x = self._input(tokens, layers.next_positions(self, tokens, new))
    return self._logits(self.decoder(x, lengths=lengths))

  @nn.nowrap
  def _check_lm(self):
    if self.head != 'lm':
      raise ValueError(f"head={self.head!r}; of tokens only 'lm' has logits.")

  def _logits(self, x):
    table = self.embed if self.tied else self.output
    return layers.logits(x, table.embedding, cap=self.soft_cap)

  def _input(self, tokens, positions):
    x = self.embed(tokens)
    if self.scaled:
      x *= self.dim**0.5
    x = self.place(x, positions)
    return self.drop(x, deterministic=not self.has_rng('dropout'))
