# SPDX-License-Identifier: Apache-2.0
"""The one attention layer. A variant only says how the inputs become heads.

Axes: B batch, T queries, S keys, D model, H heads, G groups of heads that
share, K key width, V value width.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import cache as caches
from collab.attention import kernels, masks


class Heads(NamedTuple):
  """What a variant hands to the core; nothing that is shared is expanded.

    o_h = softmax_s(scale q_h . k_h + key_bias_h) v_h,  h = 1..H

  Gq, Gk and Gv each divide H; head h uses group h // (H / G).

  Attributes:
    q: [B, T, Gq, K].
    k: [B, S, Gk, K].
    v: [B, S, Gv, V], or None where the values are the keys.
    key_bias: [B, S, H], already scaled, or None.
    scale: of q . k; default 1 / sqrt(K).
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array | None = None
  key_bias: jax.Array | None = None
  scale: float | None = None


class Positions(NamedTuple):
  """Where the tokens of a call stand in their sequences.

  Attributes:
    queries: int [B|1, T].
    keys: int [B|1, S].
  """

  queries: jax.Array
  keys: jax.Array


class Attention(nn.Module):
  """Multi-head attention, drop-in for linen's MultiHeadDotProductAttention.

    out = sum_h finish(o)_h Wo_h + bo,  o_h as in `Heads`

  Abstract: a variant defines `heads`, `count`, `cache_size`, perhaps `finish`,
  and is final. Fields have linen's names, order and defaults, by keyword from
  `decode` on. A row with nothing to attend to has zero heads and zero gradients
  (linen: the mean of the values); masks are bool (linen: any number).

  Not supported, a TypeError by name: the fields `attention_fn`,
  `qkv_dot_general`, `out_dot_general`, `qkv_dot_general_cls`,
  `out_dot_general_cls`, `qk_attn_weights_einsum_cls`,
  `attn_weights_value_einsum_cls`, and in the call `inputs_kv`.

  Attributes:
    num_heads: H.
    dtype: of the computation; by default that of inputs and parameters.
    param_dtype: of the parameters.
    qkv_features: H times the width of a head, default the width of inputs_q.
    out_features: width of the result, default the width of inputs_q.
    broadcast_dropout: one dropout pattern for all heads and examples.
    dropout_rate: of the attention weights.
    deterministic: True switches dropout off; as a field or in the call.
    precision: of the matrix products.
    kernel_init: of the projections.
    out_kernel_init: of the output projection, default kernel_init.
    bias_init: of the projections' biases.
    out_bias_init: of the output projection's bias, default bias_init.
    use_bias: whether projections have biases.
    decode: keep a cache and attend to what it holds; see `__call__`.
    normalize_qk: LayerNorm of queries and keys, parameters query_ln and key_ln;
      for mha, gqa and sha, whose queries and keys are one projection each.
    force_fp32_for_softmax: accepted; the softmax is float32 either way.
    flash: ours, not linen's; False keeps accelerators to XLA, see flash.plan.
  """

  num_heads: int
  dtype: Any = None
  param_dtype: Any = jnp.float32
  qkv_features: int | None = None
  out_features: int | None = None
  broadcast_dropout: bool = True
  dropout_rate: float = 0.0
  deterministic: bool | None = None
  precision: Any = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  out_kernel_init: nn.initializers.Initializer | None = None
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  out_bias_init: nn.initializers.Initializer | None = None
  use_bias: bool = True
  _: dataclasses.KW_ONLY  # linen has attention_fn here
  decode: bool = False
  normalize_qk: bool = False
  force_fp32_for_softmax: bool = False
  flash: bool = True

  # Variants whose values are the keys take no inputs_v.
  separate_values: ClassVar[bool] = True
  # Those whose queries and keys are a projection each take normalize_qk.
  plain_projections: ClassVar[bool] = False

  # What a variant defines -----------------------------------------------------

  def heads(self, x, y, z, positions):
    """Heads from x [B, T, D] (queries), y and z [B, S, D] (keys, values).

    Each token's heads depend on that token and its position in `positions`, a
    Positions, and on nothing else: decoding passes the new tokens only.
    """
    raise NotImplementedError

  def finish(self, o):
    """Acts on the mixed values, [B, T, H, V] -> [B, T, H, V']."""
    return o

  @nn.nowrap
  def count(self, D):
    """Number of parameters of self-attention at width D, in closed form."""
    raise NotImplementedError

  @nn.nowrap
  def cache_size(self, D):
    """Scalars that decoding keeps a token, at width D."""
    raise NotImplementedError

  # What variants use ----------------------------------------------------------

  @nn.nowrap
  def head_dim(self, D):
    """d = qkv_features / H for inputs_q of width D."""
    features = self.qkv_features or D
    if self.num_heads < 1 or features % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide qkv_features={features}.'
      )
    return features // self.num_heads

  def project(self, name, x, features, use_bias=None):
    """x W + b; the parameters are name/kernel and name/bias, as in linen."""
    return nn.DenseGeneral(
      features,
      use_bias=self.use_bias if use_bias is None else use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      precision=self.precision,
      name=name,
    )(x)

  def vector(self, name, init, shape, like):
    """A parameter [H, width] that is no projection, in the dtype of `like`."""
    x = self.param(name, init, shape, self.param_dtype)
    return jnp.asarray(x, like.dtype)  # NumPy would promote by its own rules

  # The layer ------------------------------------------------------------------

  @nn.compact
  def __call__(
    self,
    inputs_q,
    inputs_k=None,
    inputs_v=None,
    *,
    mask=None,
    deterministic=None,
    dropout_rng=None,
    sow_weights=False,
    lengths=None,
    positions=None,
    key_positions=None,
  ):
    """Attends from inputs_q to inputs_k and inputs_v.

    With decode=True, `init` on inputs of full length makes the cache. Then each
    call with n tokens appends n to every row and attends causally to what the
    row holds; the first such call is the prefill. Rows whose tokens do not fit
    come out as NaN; what a cache holds is never overwritten.

    Cross attention is initialised with inputs_k, filled by `prefill_memory`
    once, and then called with inputs_q only. Without prefill_memory a call
    appends its own inputs_k and inputs_v, as many tokens as inputs_q has, as in
    linen. Whether two arrays are the same object never matters.

    Args:
      inputs_q: [*batch, T, D].
      inputs_k: [*batch, S, D'], default inputs_q.
      inputs_v: [*batch, S, D''], default inputs_k; none where the values are
        the keys (skv, el, mla).
      mask: bool, broadcastable to [*batch, H, T, S], True where attention is
        allowed, or a masks.Mask; when decoding, S is the cache's length.
      deterministic: True switches dropout off.
      dropout_rng: random key, default make_rng('dropout').
      sow_weights: sow the weights before dropout, [*batch, H, T, S], as
        intermediates/attention_weights.
      lengths: int [*batch], how many of the n decoded tokens are real; the
        rest is padding on the right.
      positions: int [*batch, T], where inputs_q stands in its sequence, for
        variants that look at it (masks do not). Default 0, 1, ..., or what
        follows the cache's tokens; but a memory does not know how many queries
        came before, so pass them when decoding with one.
      key_positions: int [*batch, S], of inputs_k, with the same default. The
        keys of inputs_q have `positions`.

    Returns:
      [*batch, T, out_features or D].

    Raises:
      TypeError: a mask that is not bool, lengths or positions that are not int.
      ValueError: shapes that do not fit, or what the variant cannot do.
    """
    *batch, T, D = inputs_q.shape
    x, y, z = self._inputs(inputs_q, inputs_k, inputs_v)
    past = self._past()
    if past is not None and past.index.shape[0] != x.shape[0]:
      raise ValueError(
        f'The cache has {past.index.shape[0]} rows, the inputs {x.shape[0]}.'
      )
    start = 0 if past is None or past.memory else past.index[:, None]
    places = start + jnp.arange(T)[None]
    queries = _ints('positions', positions, batch, places)
    keys = queries
    if inputs_k is not None:
      keys = start + jnp.arange(y.shape[1])[None]
      keys = _ints('key_positions', key_positions, batch, keys)
    elif key_positions is not None:
      raise ValueError('key_positions needs inputs_k.')
    if past is None:
      if lengths is not None:
        raise ValueError('lengths is for a layer that decodes from its cache.')
      h = self._heads(x, y, z, Positions(queries, keys))
      if self.decode:
        widths = None if inputs_k is None else (D, y.shape[-1], z.shape[-1])
        self.put_variable('cache', 'past', caches.empty(h, widths))
    elif past.memory:
      if inputs_k is not None or lengths is not None:
        raise ValueError(
          'A layer that has a memory takes inputs_q only; inputs_k, inputs_v '
          'and their lengths go to prefill_memory, once.'
        )
      # The projections of keys and values run on no tokens at all.
      y, z = (jnp.zeros((x.shape[0], 0, n), x.dtype) for n in past.widths[1:])
      h = self._heads(x, y, z, Positions(queries, keys[:, :0]))
      h = past.heads(h)
    else:
      if inputs_k is None and past.widths:
        raise ValueError(
          'The cache was made with inputs_k and has no memory yet. Cross '
          'attention: call prefill_memory first; self-attention: pass inputs_k '
          'in every call, or in none.'
        )
      if T not in (0, y.shape[1]):
        raise ValueError(
          f'Decoding adds a key for each query: got {y.shape[1]} tokens of '
          f'inputs_k for {T} of inputs_q. The memory of cross attention goes '
          'to prefill_memory, once.'
        )
      h = self._heads(x, y, z, Positions(queries, keys))
      past = caches.append(past, h, _lengths(lengths, batch))
      self.put_variable('cache', 'past', past)
      h = past.heads(h)
    mask = masks.check(mask, tuple(batch), self.num_heads, T, h.k.shape[1])
    if past is not None:
      mask = _only_past(mask, past, places)
    o = self._attend(h, mask, batch, deterministic, dropout_rng, sow_weights)
    out = nn.DenseGeneral(
      self.out_features or D,
      axis=(-2, -1),
      use_bias=self.use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.out_kernel_init or self.kernel_init,
      bias_init=self.out_bias_init or self.bias_init,
      precision=self.precision,
      name='out',
    )(o)
    if past is not None:
      out = jnp.where(past.overflowed[:, None, None], jnp.nan, out)
    return out.reshape(*batch, T, out.shape[-1])

  def prefill_memory(self, inputs_k, inputs_v=None, *, lengths=None):
    """Fills the cache of cross attention; what it held before is forgotten.

    Args:
      inputs_k: [*batch, S, D'], S at most the length at initialisation.
      inputs_v: [*batch, S, D''], default inputs_k.
      lengths: int [*batch], how many of the S are real, default all.
    """
    past = self._past()
    if past is None or past.widths is None:
      raise ValueError(
        'prefill_memory needs decode=True and a cache made by init with '
        'inputs_k (cross attention).'
      )
    *batch, S, _ = inputs_k.shape
    if past.length < S:
      raise ValueError(
        f'A memory of {S} tokens does not fit the cache of {past.length}.'
      )
    past = past.replace(index=jnp.zeros_like(past.index), memory=False)
    self.put_variable('cache', 'past', past)
    # Its keys are added as those of self-attention are, with no query.
    x = jnp.zeros((*batch, 0, past.widths[0]), inputs_k.dtype)
    self(x, inputs_k, inputs_v, lengths=lengths)
    past = self.get_variable('cache', 'past').replace(memory=True)
    self.put_variable('cache', 'past', past)

  def _inputs(self, inputs_q, inputs_k, inputs_v):
    """Inputs of queries, keys and values, each with one batch axis."""
    if inputs_k is None and inputs_v is not None:
      raise ValueError('inputs_v needs inputs_k.')
    if inputs_v is not None and not self.separate_values:
      raise ValueError(
        f"{type(self).__name__}'s values are its keys: it takes no inputs_v."
      )
    batch = inputs_q.shape[:-2]

    def flat(name, x, length):
      if x.shape[:-1] != (*batch, length):
        raise ValueError(
          f'{name} has shape {x.shape}, expected {(*batch, length)} before its '
          'width.'
        )
      return x.reshape(math.prod(batch), *x.shape[-2:])

    x = y = z = flat('inputs_q', inputs_q, inputs_q.shape[-2])
    if inputs_k is not None:
      y = z = flat('inputs_k', inputs_k, inputs_k.shape[-2])
    if inputs_v is not None:
      z = flat('inputs_v', inputs_v, inputs_k.shape[-2])
    return x, y, z

  def _past(self):
    """The cache, or None where there is none (yet)."""
    return self.get_variable('cache', 'past') if self.decode else None

  def _heads(self, *args):
    """`heads`, normalised if asked for."""
    h = self.heads(*args)
    if not self.normalize_qk:
      return h
    if not self.plain_projections:
      raise ValueError(
        f'{type(self).__name__} has no normalize_qk: its queries and keys are '
        'not one projection each.'
      )
    norm = functools.partial(
      nn.LayerNorm,
      use_bias=False,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    return h._replace(q=norm(name='query_ln')(h.q), k=norm(name='key_ln')(h.k))

  def _attend(self, h, mask, batch, deterministic, dropout_rng, sow_weights):
    """The kernel that fits, then `finish`: [B, T, H, V']."""
    dtype = jnp.result_type(h.q, h.k, *[] if h.v is None else [h.v])
    q, k = h.q.astype(dtype), h.k.astype(dtype)
    v = k if h.v is None else h.v.astype(dtype)
    q = q * (q.shape[-1] ** -0.5 if h.scale is None else h.scale)
    (B, T), S, H = q.shape[:2], k.shape[1], self.num_heads
    if 0 in (B, T, S):  # not a pair of query and key
      if sow_weights:
        self._sow(jnp.zeros((B, H, T, S), v.dtype), batch)
      return jnp.zeros_like(
        self.finish(jnp.zeros((B, T, H, v.shape[3]), dtype))
      )
    rate, key = 0.0, None
    if self.dropout_rate > 0 and not nn.merge_param(
      'deterministic', self.deterministic, deterministic
    ):
      rate = self.dropout_rate
      key = self.make_rng('dropout') if dropout_rng is None else dropout_rng
    if sow_weights or (rate and not self.broadcast_dropout):
      p, alive = kernels.weights(q, k, h.key_bias, mask, H, self.precision)
      if sow_weights:
        self._sow(p.astype(v.dtype), batch)
      p = kernels.drop(p, rate, key, self.broadcast_dropout)
      o = kernels.mix(p, v, self.precision)
    else:
      o, alive = kernels.attend(
        q,
        k,
        v,
        h.key_bias,
        mask,
        H,
        rate=rate,
        key=key,
        precision=self.precision,
        flash=self.flash,
      )
    return jnp.where(alive, self.finish(o), 0)

  def _sow(self, p, batch):
    p = p.reshape(*batch, *p.shape[1:])
    self.sow('intermediates', 'attention_weights', p)


def _ints(name, x, batch, default):
  """int [B|1, n] from what the user gave as [*batch, n], or the default."""
  if x is None:
    return default
  x = masks.typed(name, x, jnp.integer)
  return masks.flat(name, x, tuple(batch), default.shape[1:])


def _lengths(lengths, batch):
  """[B] from what the user gave as [*batch], or None."""
  if lengths is None:
    return None
  lengths = masks.typed('lengths', lengths, jnp.integer)
  if lengths.shape != tuple(batch):
    raise ValueError(
      f'lengths has shape {lengths.shape}, expected {tuple(batch)}.'
    )
  return lengths.ravel()


def _only_past(mask, past, places):
  """Adds to the mask that queries see nothing but what the cache holds."""
  mask = mask or masks.Mask()
  if past.memory:
    held = jnp.arange(past.length)[None] < past.index[:, None]
    valid = held if mask.key_valid is None else held & mask.key_valid
    return mask.replace(key_valid=valid)
  if mask.q_positions is not None:
    raise ValueError('The cache decides q_positions; leave them out.')
  return mask.replace(causal=True, q_positions=places)
