# SPDX-License-Identifier: Apache-2.0
"""The decoder of language models. Axes: B batch, L tokens, V vocabulary."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from collab.attention import Mask
from collab.models import layers
from collab.models.transformer import Place, Stack


class Decoder(nn.Module):
  """GPT-2's form: causal, pre-norm, learned positions, tied output.

    logits = Stack(E[tokens] + P) E^T

  Attributes:
    vocab_size: V.
    attention: fields of `attention.build`, with its name.
    dim: D.
    num_layers: number of blocks.
    mlp_dim, activation, norm, epsilon, dropout, attention_dropout,
      activation_dropout: as in transformer.Block.
    positions: 'learned', 'none' or sinusoids, see layers.Positions.
    max_length: of learned positions and of decoding.
    scan, remat: as in transformer.Stack.
    dtype: of the computation.
    decode: keep caches.
  """

  vocab_size: int
  attention: Mapping
  dim: int = 768
  num_layers: int = 12
  mlp_dim: int = 3072
  activation: str = 'gelu_tanh'
  norm: str = 'pre'
  epsilon: float = 1e-5
  dropout: float = 0.1
  attention_dropout: float = 0.0
  activation_dropout: float = 0.0
  positions: str = 'learned'
  max_length: int = 1024
  scan: bool = False
  remat: str = 'none'
  dtype: Any = None
  decode: bool = False

  @nn.nowrap
  def attentions(self):
    """The Places of attention layers, for accounting."""
    return [Place('decoder', self.attention, self.num_layers, causal=True)]

  def setup(self):
    self.embed = layers.table(self.vocab_size, self.dim, self.dtype)
    self.place = layers.Positions(
      self.positions, self.max_length, name='positions'
    )
    self.decoder = Stack(
      self.num_layers,
      dict(
        attention=self.attention,
        mlp_dim=self.mlp_dim,
        activation=self.activation,
        norm=self.norm,
        epsilon=self.epsilon,
        dropout=self.dropout,
        attention_dropout=self.attention_dropout,
        activation_dropout=self.activation_dropout,
        dtype=self.dtype,
        decode=self.decode,
      ),
      self.scan,
      self.remat,
    )
    self.drop = nn.Dropout(self.dropout)

  def __call__(self, batch):
    """Logits [B, L, V] of a dict of tokens, int [B, L]."""
    return self.embed.attend(self.features(batch))

  def features(self, batch):
    """What the table turns into logits, [B, L, D]."""
    tokens = batch['tokens']
    x = self._input(tokens, jnp.arange(tokens.shape[1])[None])
    return self.decoder(x, mask=Mask(causal=True))

  def next_logits(self, tokens, lengths=None):
    """Logits [B, n, V] of n more tokens int [B, n] (decode=True).

    Args:
      tokens: int [B, n].
      lengths: int [B], how many of the n are real, padded on the right.
    """
    B, n = tokens.shape
    start = jnp.zeros((B,), jnp.int32)
    place = self.get_variable('cache', 'place', start)
    new = place + (n if lengths is None else lengths)
    self.put_variable(
      'cache', 'place', start if self.is_initializing() else new
    )
    x = self._input(tokens, place[:, None] + jnp.arange(n)[None])
    return self.embed.attend(self.decoder(x, lengths=lengths))

  def _input(self, tokens, positions):
    x = self.place(self.embed(tokens), positions)
    return self.drop(x, deterministic=not self.has_rng('dropout'))
