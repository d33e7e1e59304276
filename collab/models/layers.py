# SPDX-License-Identifier: Apache-2.0
"""The embeddings, positions, norms and MLPs of all models. Axes: B, T, D, V."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from collab.attention import dropout

ACTIVATIONS = {
  'relu': nn.relu,
  'gelu': lambda x: nn.gelu(x, approximate=False),
  'gelu_tanh': nn.gelu,
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'silu': nn.silu,
  'mish': jax.nn.mish,
  'tanh': jnp.tanh,
  'relu2': lambda x: jnp.square(nn.relu(x)),  # 2109.08668
}


NORMS = dict(layer=nn.LayerNorm, rms=nn.RMSNorm)
BLOCK_INIT = nn.initializers.xavier_uniform()


def choose(what: str, name: str, legal: Mapping) -> Any:
  """Returns legal[name], or raises a ValueError that lists the legal names."""
  if name not in legal:
    raise ValueError(f'{what}={name!r} is none of {", ".join(legal)}.')
  return legal[name]


def of_layer(fields: Mapping, layer: int, layers: int) -> dict:
  """Returns the fields of one layer; a tuple, at any depth, has each layer's.

  Raises:
    ValueError: a tuple of another length.
  """

  def pick(name, value):
    if isinstance(value, Mapping):
      return {k: pick(k, v) for k, v in value.items()}
    if not isinstance(value, tuple):
      return value
    if len(value) != layers:
      raise ValueError(
        f'{name}={value} has {len(value)} values for {layers} layers.'
      )
    return value[layer]

  return pick('', fields)


def capped(x: jax.Array, c: float | jax.Array) -> jax.Array:
  """Bounds x by c tanh(x / c) (arXiv 2408.00118)."""
  return c * jnp.tanh(x / c)


def logits(
  x: jax.Array,
  table: jax.Array,
  bias: jax.Array | None = None,
  cap: float | jax.Array | None = None,
) -> jax.Array:
  """Computes x E^T + b in the dtype of x, [B, T, D] -> [B, T, V].

  Args:
    x: [B, T, D].
    table: E, [V, D].
    bias: b, [V]; None for 0.
    cap: c of `capped`; None for none.
  """
  # This is x @ E^T; its gradient to E needs no transposed copy of the logits.
  x = x @ table.astype(x.dtype).T
  if bias is not None:
    x += bias.astype(x.dtype)[None, None]
  return x if cap is None else capped(x, cap)


def drop_path(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
  """Stochastic depth: 0 with probability `rate`, else x / (1 - rate).

  Each example (first axis of x) has its own draw. Larsson et al., 2016.
  """
  shape = (x.shape[0],) + (1,) * (x.ndim - 1)
  keep = dropout.keep_rows(key, rate, shape)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Dropout(nn.Module):
  """Sets elements to 0 with probability `rate`, the others to x / (1 - rate).

  Like linen's, but the pattern is the same on any mesh, see dropout.keep_rows.
  """

  rate: float
  deterministic: bool | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, deterministic: bool | None = None
  ) -> jax.Array:
    """Drops elements of x, [rows, ...], unless deterministic."""
    if not self.rate or nn.merge_param(
      'deterministic', self.deterministic, deterministic
    ):
      return x
    keep = dropout.keep_rows(self.make_rng('dropout'), self.rate, x.shape)
    return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


# MLPs are functions of a BlockConfig, x [N, D], and whether dropout is off.
# They create their layers inside the block that calls them.


def dense_mlp(config: Any, x: jax.Array, deterministic: bool) -> jax.Array:
  """Computes act(x W_in + b) W_out + b."""
  h = ACTIVATIONS[config.activation](
    _mlp_layer('mlp_in', config, config.mlp_dim)(x)
  )
  return _mlp_out(config, h, x.shape[-1], deterministic)


def gated_mlp(config: Any, x: jax.Array, deterministic: bool) -> jax.Array:
  """Computes (act(x W_gate + b) * (x W_in + b)) W_out + b (2002.05202)."""
  gate = _mlp_layer('mlp_gate', config, config.mlp_dim)(x)
  h = _mlp_layer('mlp_in', config, config.mlp_dim)(x)
  h = ACTIVATIONS[config.activation](gate) * h
  return _mlp_out(config, h, x.shape[-1], deterministic)


def _mlp_layer(name, config, width):
  return nn.Dense(
    width,
    use_bias=config.use_bias,
    dtype=config.dtype,
    kernel_init=BLOCK_INIT,
    name=name,
  )


def _mlp_out(config, h, width, deterministic):
  h = Dropout(config.activation_dropout, deterministic=deterministic)(h)
  return _mlp_layer('mlp_out', config, width)(h)


MLPS = dict(dense=dense_mlp, gated=gated_mlp)


def ints(*shape: int) -> jax.ShapeDtypeStruct:
  """Returns the shape and dtype of an int32 array."""
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def next_positions(
  module: nn.Module, tokens: jax.Array, new: int | jax.Array
) -> jax.Array:
  """Returns positions [B, n] of the next tokens [B, n] that a module decodes.

  Args:
    module: its cache counts the tokens that it has decoded.
    tokens: int [B, n].
    new: int [] or [B], how many of the n are real; the others come again later.
  """
  B, n = tokens.shape
  start = jnp.zeros((B,), jnp.int32)
  done = module.get_variable('cache', 'place', start)
  module.put_variable(
    'cache', 'place', start if module.is_initializing() else done + new
  )
  return done[:, None] + jnp.arange(n)[None]


class Embed(nn.Module):
  """A table E [V, D] that embeds tokens and, transposed, gives logits.

    embed: sqrt(D) E[tokens];  logits: x E^T + b  (arXiv 1706.03762, 3.4)

  Without `scaled` embeddings are E[tokens]. Parameters: V D, and V of b with
  use_bias.
  """

  vocab_size: int
  dim: int
  dtype: Any = None
  use_bias: bool = False
  scaled: bool = True

  def setup(self) -> None:
    init = nn.initializers.normal(self.dim**-0.5)
    self.embedding = self.param(
      'embedding', init, (self.vocab_size, self.dim), jnp.float32
    )
    if self.use_bias:
      self.bias = self.param(
        'bias', nn.initializers.zeros, (self.vocab_size,), jnp.float32
      )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """int [B, T] -> [B, T, D]."""
    x = jnp.take(self.embedding, tokens, axis=0)
    if self.scaled:
      x *= self.dim**0.5
    return x.astype(self.dtype or x.dtype)

  def logits(self, x: jax.Array) -> jax.Array:
    """[B, T, D] -> [B, T, V]."""
    return logits(x, self.embedding, self.bias if self.use_bias else None)


def table(
  vocab_size: int, dim: int, dtype: Any = None, **options: Any
) -> nn.Embed:
  """Makes a table [V, D] like BERT and GPT-2: x = E[tokens], logits = x E^T."""
  init = nn.initializers.normal(0.02)
  return nn.Embed(vocab_size, dim, dtype, embedding_init=init, **options)


def sinusoid(positions: jax.Array, D: int) -> jax.Array:
  """sin and cos of p / 10000^(2i/D), [B, T] -> [B, T, D] (1706.03762, 3.5)."""
  half = D // 2
  rates = jnp.exp(jnp.arange(half) * -(jnp.log(10000.0) / max(half - 1, 1)))
  return jnp.pad(_waves(positions, rates), ((0, 0), (0, 0), (0, D - 2 * half)))


def exact_sinusoid(positions: jax.Array, D: int) -> jax.Array:
  """As `sinusoid`, with exactly these rates (not tensor2tensor's)."""
  rates = (10000.0 ** (-2 * np.arange(-(-D // 2)) / D)).astype(np.float32)
  return _waves(positions, rates)[..., :D]


def _waves(positions, rates):
  angles = positions[..., None].astype(jnp.float32) * rates[None, None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


WAVES = dict(sinusoidal=sinusoid, sinusoidal_exact=exact_sinusoid)
POSITIONS = (*WAVES, 'learned', 'none')


class Positions(nn.Module):
  """Adds positional embeddings to x, of one of the kinds in POSITIONS.

  Parameters: max_length D if learned.

  Attributes:
    kind: 'learned', 'none', or a kind of sinusoids.
    max_length: rows of the learned table.
    first: the row of position 0.
  """

  kind: str
  max_length: int
  first: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """[B, T, D], int [B|1, T] -> [B, T, D]."""
    D = x.shape[-1]
    choose('positions', self.kind, dict.fromkeys(POSITIONS))
    if self.kind == 'none':
      return x
    if self.kind in WAVES:
      return x + WAVES[self.kind](positions, D).astype(x.dtype)
    if self.first + x.shape[1] > self.max_length:
      start = f', of which {self.first} are not used' if self.first else ''
      raise ValueError(
        f'{x.shape[1]} tokens have no learned positions beyond '
        f'max_length={self.max_length}{start}.'
      )
    table = self.param(
      'embedding',
      nn.initializers.normal(0.02),
      (self.max_length, D),
      jnp.float32,
    )
    return x + jnp.take(table, self.first + positions, axis=0).astype(x.dtype)
