# SPDX-License-Identifier: Apache-2.0
"""The one attention layer. A variant only says how the inputs become heads.

Axes: B batch, T queries, S keys, D model, H heads, V value width.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import arguments, costs, fields, kernels, masks
from collab.attention import cache as caches
from collab.attention.heads import Heads, Positions


class Attention(nn.Module):
  """Multi-head attention, drop-in for linen's MultiHeadDotProductAttention.

    out = sum_h finish(o)_h Wo_h + bo,  o_h as in `Heads`

  Abstract: a variant defines `heads`, perhaps `finish`, and is final. Fields
  have linen's names, order and defaults, by keyword from `decode` on. A row
  with nothing to attend to has zero heads and zero gradients (linen: the mean
  of the values); masks are bool (linen: any number).

  Not supported, a TypeError by name: the fields `attention_fn`,
  `*_dot_general`, `*_dot_general_cls`, `*_einsum_cls`, and in the call
  `inputs_kv`.

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

  def __post_init__(self):
    super().__post_init__()
    fields.check(type(self), vars(self))

  # What a variant defines -----------------------------------------------------

  def heads(self, x, y, z, positions: Positions) -> Heads:
    """Heads from x [B, T, D] (queries), y and z [B, S, D] (keys, values).

    Each token's heads depend on that token and its position, and on nothing
    else: decoding passes the new tokens only.
    """
    raise NotImplementedError

  def finish(self, o: jax.Array) -> jax.Array:
    """Acts on the mixed values, [B, T, H, V] -> [B, T, H, V']."""
    return o

  @nn.nowrap
  def count(self, D: int) -> int:
    """Number of parameters of self-attention at width D."""
    return costs.of_layer(self, D).parameters

  @nn.nowrap
  def cache_size(self, D: int) -> int:
    """Scalars that decoding keeps a token, at width D."""
    return costs.of_layer(self, D).cache

  # What variants use ----------------------------------------------------------

  @nn.nowrap
  def head_dim(self, D: int) -> int:
    """d = qkv_features / H for inputs_q of width D."""
    features = self.qkv_features or D
    if self.num_heads < 1 or features % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide qkv_features={features}.'
      )
    return features // self.num_heads

  def project(self, name, x, features, **options) -> jax.Array:
    """x W + b; the parameters are name/kernel and name/bias, as in linen.

    `options` are of linen's DenseGeneral, where they differ from the layer's.
    """
    own = dict(
      use_bias=self.use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      precision=self.precision,
    )
    return nn.DenseGeneral(features, name=name, **own | options)(x)

  def vector(self, name, init, shape, like):
    """A parameter [H, width], not a projection, in the dtype of `like`."""
    x = self.param(name, init, shape, self.param_dtype)
    return jnp.asarray(x, like.dtype)  # NumPy would promote by its own rules

  # The layer ------------------------------------------------------------------

  @nn.compact
  def __call__(
    self,
    inputs_q: jax.Array,
    inputs_k: jax.Array | None = None,
    inputs_v: jax.Array | None = None,
    *,
    mask: jax.Array | masks.Mask | None = None,
    deterministic: bool | None = None,
    dropout_rng: jax.Array | None = None,
    sow_weights: bool = False,
    lengths: jax.Array | None = None,
    positions: jax.Array | None = None,
    key_positions: jax.Array | None = None,
  ) -> jax.Array:
    """Attends from inputs_q to inputs_k, [*batch, T, out_features or D].

    With decode=True, `init` on inputs of full length makes the cache. Then each
    call with n tokens appends n to every row and attends causally to what the
    row holds. Rows whose tokens do not fit come out as NaN.

    Cross attention is initialised with inputs_k, filled by `prefill_memory`
    once, and then called with inputs_q only. Without prefill_memory a call
    appends its own inputs_k and inputs_v, as many tokens as inputs_q has, as in
    linen.

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

    Raises:
      TypeError: a mask that is not bool, lengths or positions that are not int.
      ValueError: shapes that do not fit, or what the variant cannot do.
    """
    batch, (T, D) = inputs_q.shape[:-2], inputs_q.shape[-2:]
    if inputs_v is not None and not self.separate_values:
      raise ValueError(
        f"{type(self).__name__}'s values are its keys: it takes no inputs_v."
      )
    x, y, z = arguments.inputs(inputs_q, inputs_k, inputs_v)
    S = None if inputs_k is None else y.shape[1]
    past = self._past()
    if past is not None:
      past.check_call(x.shape[0], T, S, lengths)
    elif lengths is not None:
      raise ValueError('lengths is for a layer that decodes from its cache.')
    start = 0 if past is None or past.memory else past.index[:, None]
    places = start + jnp.arange(T)[None]
    queries = keys = arguments.positions('positions', positions, batch, places)
    if inputs_k is not None:
      keys = start + jnp.arange(S)[None]
      keys = arguments.positions('key_positions', key_positions, batch, keys)
    elif key_positions is not None:
      raise ValueError('key_positions needs inputs_k.')
    if past is not None and past.memory:
      # The projections of keys and values run on no tokens at all.
      y, z = (jnp.zeros((x.shape[0], 0, n), x.dtype) for n in past.widths[1:])
      keys = keys[:, :0]
    h = self._heads(x, y, z, Positions(queries, keys))
    if past is not None:
      if not past.memory:
        past = caches.append(past, h, arguments.lengths(lengths, batch))
        self.put_variable('cache', 'past', past)
      h = past.heads(h)
    elif self.decode:
      widths = None if S is None else (D, y.shape[-1], z.shape[-1])
      self.put_variable('cache', 'past', caches.empty(h, widths))
    mask = masks.check(mask, batch, self.num_heads, T, h.k.shape[1])
    if past is not None:
      mask = past.restrict(mask, places)
    o = self._attend(h, mask, batch, deterministic, dropout_rng, sow_weights)
    out = self.project(
      'out',
      o,
      self.out_features or D,
      axis=(-2, -1),
      kernel_init=self.out_kernel_init or self.kernel_init,
      bias_init=self.out_bias_init or self.bias_init,
    )
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
    *batch, S, _ = inputs_k.shape
    past = caches.emptied(self._past(), S)
    self.put_variable('cache', 'past', past)
    # Its keys are added as those of self-attention are, with no query.
    x = jnp.zeros((*batch, 0, past.widths[0]), inputs_k.dtype)
    self(x, inputs_k, inputs_v, lengths=lengths)
    self.put_variable('cache', 'past', self._past().replace(memory=True))

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
    how = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
    q = nn.LayerNorm(name='query_ln', **how)(h.q)
    k = nn.LayerNorm(name='key_ln', **how)(h.k)
    return h._replace(q=q, k=k)

  def _attend(self, h, mask, batch, deterministic, dropout_rng, sow_weights):
    """The kernel that fits, then `finish`: [B, T, H, V']."""
    dtype = jnp.result_type(*jax.tree.leaves((h.q, h.k, h.v)))
    q, k = h.q.astype(dtype), h.k.astype(dtype)
    v = k if h.v is None else h.v.astype(dtype)
    q = q * (q.shape[-1] ** -0.5 if h.scale is None else h.scale)
    rate, key, H = 0.0, None, self.num_heads
    # Without a pair of query and key, nothing is dropped and no key is needed.
    drops = self.dropout_rate > 0 and 0 not in (*q.shape[:2], k.shape[1])
    if drops and not nn.merge_param(
      'deterministic', self.deterministic, deterministic
    ):
      rate = self.dropout_rate
      key = self.make_rng('dropout') if dropout_rng is None else dropout_rng
    if sow_weights or (rate and not self.broadcast_dropout):
      p, alive = kernels.weights(q, k, h.key_bias, mask, H, self.precision)
      if sow_weights:
        sown = p.astype(v.dtype).reshape(*batch, *p.shape[1:])
        self.sow('intermediates', 'attention_weights', sown)
      p = kernels.drop(p, rate, key, self.broadcast_dropout)
      o = kernels.mix(p, v, self.precision)
    else:
      how = dict(rate=rate, precision=self.precision, flash=self.flash)
      o, alive = kernels.attend(q, k, v, h.key_bias, mask, H, key=key, **how)
    return jnp.where(alive, self.finish(o), 0)
