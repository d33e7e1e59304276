# SPDX-License-Identifier: Apache-2.0
"""The text encoder and its heads. Axes: B batch, L tokens, V vocabulary."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import Mask
from collab.models import layers
from collab.models.stack import Stack
from collab.models.transformer import BlockConfig, Place

HEADS = ('none', 'mlm', 'classify', 'choice', 'span', 'tag')
INIT = nn.initializers.normal(0.02)


class Encoder(nn.Module):
  """BERT (1810.04805); other fields make RoBERTa, DistilBERT and ALBERT.

    x = Stack(LN(E[tokens] + P + E_types[types]));  pooled = tanh(W x_0 + b)

  The embeddings have their norm also with norm='pre'.

  Attributes:
    vocab_size: V.
    block: BlockConfig.
    dim: D.
    num_layers: number of layers.
    positions: 'learned', 'none' or sinusoids, see layers.Positions.
    max_length: rows of the table of learned positions.
    first_position: row of the first token in it (RoBERTa: 2).
    types: number of token types, 0 for none (DistilBERT).
    embed_dim: E, width of embeddings that are projected to D (ALBERT); 0 for D
      and no projection.
    shared: whether all layers share one layer's parameters (ALBERT).
    order: number of the parameters of each layer, where some share them; () for
      0, 1, 2, ...
    pooler: whether the model has one (not in DistilBERT), for the heads that
      use it: 'none', 'classify' and 'choice'.
    head: 'none', 'mlm', 'classify', 'choice', 'span' or 'tag', see `__call__`.
      Of `params`, only the head and the pooler depend on the task.
    outputs: number of outputs of 'classify', 1 for regression, and of 'tag'.
    scan, remat: as in stack.Stack.
  """

  READS: ClassVar[str] = 'texts'
  BLOCK: ClassVar[dict] = dict(
    mlp_dim=3072,
    activation='gelu',
    epsilon=1e-12,
    dropout=0.1,
    attention_dropout=0.1,
  )

  vocab_size: int
  block: BlockConfig
  dim: int = 768
  num_layers: int = 12
  positions: str = 'learned'
  max_length: int = 512
  first_position: int = 0
  types: int = 2
  embed_dim: int = 0
  shared: bool = False
  order: Sequence[int] = ()
  pooler: bool = True
  head: str = 'none'
  outputs: int = 0
  scan: bool = False
  remat: str = 'none'

  @property
  def longest(self) -> int:
    return self.max_length - self.first_position

  @nn.nowrap
  def attentions(self) -> list[Place]:
    order = self._order or range(self.num_layers)
    runs = tuple(order.count(i) for i in range(len(set(order))))
    attention = self.block.attention
    return [Place('encoder', 'attention', attention, len(runs), runs=runs)]

  @property
  def _order(self):
    return (0,) * self.num_layers if self.shared else self.order

  @nn.nowrap
  def example(
    self, rows: int = 1, length: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    axes = (rows, 1) if self.head == 'choice' else (rows,)
    masked = max(1, round(0.15 * length))
    return dict(
      tokens=layers.ints(*axes, length),
      types=layers.ints(*axes, length),
      lengths=layers.ints(*axes),
      positions=layers.ints(*axes, masked),
    )

  @nn.nowrap
  def output_table(self, params: Mapping) -> tuple[jax.Array, jax.Array]:
    return params['embed']['embedding'], params['head']['bias']

  def setup(self) -> None:
    layers.choose('head', self.head, dict.fromkeys(HEADS))
    if self.head in ('classify', 'tag') and self.outputs < 1:
      raise ValueError(
        f'head={self.head!r} needs outputs, at least 1; got {self.outputs}.'
      )
    order, n = self.order, self.num_layers
    if order and (len(order) != n or {*order} != {*range(len({*order}))}):
      raise ValueError(f'order={order}; expected {n} numbers: 0, 1, ...')
    E, block = self.embed_dim or self.dim, self.block
    self.embed = layers.table(self.vocab_size, E, block.dtype)
    self.place = layers.Positions(
      self.positions, self.max_length, self.first_position, name='positions'
    )
    if self.types:
      self.type_table = layers.table(self.types, E, block.dtype, name='types')
    self.embed_norm = block.make_norm()
    if self.embed_dim:
      self.embed_project = self._dense(self.dim)
    self.encoder = Stack(
      self.num_layers, block, self.scan, self.remat, order=self._order
    )
    if self.pooler:
      self.pool = self._dense(self.dim, name='pooler')
    self.drop = layers.Dropout(block.dropout)
    if self.head == 'mlm':
      self.task = MaskedHead(self.vocab_size, E, block, name='head')
    elif self.head in ('span', 'tag'):
      outputs = 2 if self.head == 'span' else self.outputs
      self.task = self._dense(outputs, name='head')
    elif self.head != 'none':
      outputs = self.outputs if self.head == 'classify' else 1
      self.task = ClassHead(outputs, not self.pooler, block, name='head')

  def __call__(
    self, batch: Mapping[str, jax.Array]
  ) -> jax.Array | tuple[jax.Array, jax.Array | None]:
    """Computes the outputs of the head for texts.

    Args:
      batch: dict of int tokens [B, L], padded on the right; types [B, L], if
        the model has types; lengths [B], numbers of real tokens; for 'mlm' also
        positions [B, P]. For 'choice' each has an axis C after B.

    Returns:
      'none': x [B, L, D] and pooled [B, D], or None without pooler; 'mlm':
      logits [B, P, V] of the tokens at the positions; 'classify': [B, outputs];
      'choice': [B, C]; 'span': logits of start and end, [B, L, 2]; 'tag': of
      each token, [B, L, outputs].
    """
    if self.head == 'mlm':
      x = self.features(batch)
      return layers.logits(x, self.embed.embedding, self.task.bias)
    if self.head == 'choice':
      B, C, _ = batch['tokens'].shape
      keys = ('tokens', 'types', 'lengths')
      flat = {k: batch[k].reshape(B * C, *batch[k].shape[2:]) for k in keys}
      return self._classify(self._hidden(flat)).reshape(B, C)
    x = self._hidden(batch)
    if self.head == 'classify':
      return self._classify(x)
    if self.head in ('span', 'tag'):
      return self.task(x)
    return x, self._pooled(x) if self.pooler else None

  def features(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Computes the features at the positions that give logits, [B, P, E]."""
    x = self._hidden(batch)
    at = batch['positions'][:, :, None]
    return self.task(jnp.take_along_axis(x, at, axis=1))

  def _hidden(self, batch):
    tokens = batch['tokens']
    positions = jnp.arange(tokens.shape[1])[None]
    x = self.place(self.embed(tokens), positions)
    if self.types:
      x += self.type_table(batch['types'])
    x = self.embed_norm(x)
    x = self.drop(x, deterministic=not self.has_rng('dropout'))
    if self.embed_dim:
      x = self.embed_project(x)
    valid = positions < batch['lengths'][:, None]
    return self.encoder(x, mask=Mask(key_valid=valid))

  def _pooled(self, x):
    return jnp.tanh(self.pool(x[:, 0]))

  def _classify(self, x):
    return self.task(self._pooled(x) if self.pooler else x[:, 0])

  def _dense(self, width, **options):
    dtype = self.block.dtype
    return nn.Dense(width, dtype=dtype, kernel_init=INIT, **options)


class MaskedHead(nn.Module):
  """The MLM head: norm(act(W x + b)) for the tied table, and a logit bias."""

  vocab_size: int
  dim: int
  block: BlockConfig

  def setup(self) -> None:
    self.dense = nn.Dense(self.dim, dtype=self.block.dtype, kernel_init=INIT)
    self.norm = self.block.make_norm()
    self.bias = self.param(
      'bias', nn.initializers.zeros, (self.vocab_size,), jnp.float32
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, P, D] -> [B, P, E]."""
    act = layers.ACTIVATIONS[self.block.activation]
    return self.norm(act(self.dense(x)))


class ClassHead(nn.Module):
  """Dropout and a linear map; `hidden` puts relu(W x + b) before them."""

  outputs: int
  hidden: bool
  block: BlockConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, D] -> [B, outputs]."""
    dense = lambda n: nn.Dense(n, dtype=self.block.dtype, kernel_init=INIT)
    if self.hidden:
      x = nn.relu(dense(x.shape[-1])(x))
    deterministic = not self.has_rng('dropout')
    x = layers.Dropout(self.block.dropout, deterministic=deterministic)(x)
    return dense(self.outputs)(x)
