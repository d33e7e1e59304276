# SPDX-License-Identifier: Apache-2.0
"""The attention layer; a variant only defines how inputs become heads.

Axes: B batch, T queries, S keys, D model, H heads, V value width.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import arguments, choice, costs, fields, kernels, masks
from collab.attention import cache as caches
from collab.attention.heads import Heads, Positions
from collab.attention.rope import Rope


class Attention(nn.Module):
  """Multi-head attention, drop-in for linen's MultiHeadDotProductAttention.

    out = sum_h gate_h * finish(o)_h Wo_h + bo,  o_h as in `Heads`

  Abstract: a variant defines `heads`, perhaps `read` and `finish`, and is
  final. The fields have linen's names, order and defaults, keyword-only from
  `decode` on. Two things differ. A row with nothing to attend to has zero heads
  and zero gradients (linen: the mean of the values). Masks are bool (linen: any
  number).

  These raise a TypeError with the name: the fields `attention_fn`,
  `qkv_dot_general`, `out_dot_general`, `qkv_dot_general_cls`,
  `out_dot_general_cls`, `qk_attn_weights_einsum_cls`,
  `attn_weights_value_einsum_cls`, and the call's argument `inputs_kv`.

  Attributes:
    num_heads: H.
    dtype: dtype of the computation; by default that of inputs and parameters.
    param_dtype: dtype of the parameters.
    qkv_features: H times the width of a head, default the width of inputs_q.
    out_features: width of the result, default the width of inputs_q.
    broadcast_dropout: whether all heads and examples share a dropout pattern.
    dropout_rate: dropout rate of the attention weights.
    deterministic: True switches dropout off; an argument of the call, too.
    precision: precision of the matrix products.
    kernel_init: initialiser of the projections.
    out_kernel_init: initialiser of the output projection, default kernel_init.
    bias_init: initialiser of the projections' biases.
    out_bias_init: initialiser of the output bias, default bias_init.
    use_bias: whether projections have biases.
    decode: whether to keep a cache and attend to it; see `__call__`.
    normalize_qk: LayerNorm of queries and keys, parameters query_ln and key_ln,
      for variants with one projection each: mha, gqa, sha. Not with rope.
    force_fp32_for_softmax: accepted, but the softmax is float32 either way.
    implementation: ours, not linen's: 'xla', 'cudnn' or 'splash' has to take
      every call but those that decode, and a call that it does not take raises
      a ValueError. By default the kernel is chosen, see choice.py. On an
      accelerator second derivatives and some jax.vmap need 'xla'.
    rope: rotary positions, see `Rope`; the variant says what rotates.
    qk_norm: RMS norm of queries and keys before they rotate, with scales
      query_norm and key_norm: of each head, and where heads share queries or
      keys of these, before they are mixed or get embeddings.
    soft_cap: c, bounds each score s by c tanh(s / c) (arXiv 2408.00118).
    gate: the result of a head is multiplied by sigmoid(x Wg_h + bg_h) (arXiv
      2505.06708): by one number with 'head', by one for each of its dimensions
      with 'elementwise', or not at all with 'none'.
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
  _: dataclasses.KW_ONLY  # linen's attention_fn is here
  decode: bool = False
  normalize_qk: bool = False
  force_fp32_for_softmax: bool = False
  implementation: str | None = None
  rope: Rope | None = None
  qk_norm: bool = False
  soft_cap: float | None = None
  gate: str = 'none'

  # Where this is False the values are the keys, and the call takes no inputs_v.
  separate_values: ClassVar[bool] = True
  # Those of the fields normalize_qk, qk_norm and rope that the variant obeys.
  # normalize_qk needs queries and keys of one projection each; for the others
  # `heads` calls `normalize` and `rotate`.
  takes: ClassVar[tuple[str, ...]] = ()
  # Whether `read` needs the keys' positions under rope: the cache keeps them.
  reads_positions: ClassVar[bool] = False
  # The axes of the variant's parameters, see collab/models/axes.py: devices may
  # split `heads` and `groups`, and each has whole what all heads share.
  axes: ClassVar[dict[str, str]] = {}
  # Whether `read` mixes tokens. Then the layer does not decode, and its mask
  # may only have key_valid: keys and values that it hides are zeros in `read`.
  mixes_tokens: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    fields.check(type(self), vars(self))

  # What a variant defines -----------------------------------------------------

  def heads(
    self, x: jax.Array, y: jax.Array, z: jax.Array, positions: Positions
  ) -> Heads:
    """Computes heads from x [B, T, D] (queries), y, z [B, S, D] (keys, values).

    The heads of a token may depend on that token and its position alone,
    because decoding passes only the new tokens. The cache keeps k, v and
    key_bias as they are returned.
    """
    raise NotImplementedError

  def read(self, h: Heads, positions: Positions) -> Heads:
    """Makes the heads that attend from those that `heads` returned.

    When decoding, k, v and key_bias of h are all that the cache holds. So what
    is done here is not kept, but done again in each step.

    Args:
      h: Heads.
      positions: positions of h.q and h.k; the keys' are None when decoding
        without `reads_positions`.
    """
    return h

  def finish(self, o: jax.Array) -> jax.Array:
    """Transforms the mixed values, [B, T, H, V] -> [B, T, H, V']."""
    return o

  @nn.nowrap
  def count(self, D: int) -> int:
    """Counts the parameters of self-attention at width D."""
    return costs.of_layer(self, D).parameters

  @nn.nowrap
  def cache_size(self, D: int) -> int:
    """Counts the scalars that the decoding cache keeps a token, at width D."""
    return costs.of_layer(self, D).cache

  # What variants use ----------------------------------------------------------

  @nn.nowrap
  def head_dim(self, D: int) -> int:
    """Returns d = qkv_features / H for inputs_q of width D."""
    features = self.qkv_features or D
    if self.num_heads < 1 or features % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide qkv_features={features}.'
      )
    return features // self.num_heads

  def project(
    self,
    name: str,
    x: jax.Array,
    features: int | tuple[int, ...],
    **options: Any,
  ) -> jax.Array:
    """Computes x W + b, with parameters name/kernel and name/bias as in linen.

    `options` go to linen's DenseGeneral and override those of the layer.
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

  def rotate(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Rotates x [B, S, G, K] by positions [B|1, S], if the layer has rope."""
    if self.rope is None:
      return x
    if positions is None:
      raise ValueError(
        f'{type(self).__name__}.read rotates keys of the cache, which keeps '
        'their positions only for a variant with reads_positions = True.'
      )
    return self.rope.rotate(x, positions)

  def normalize(self, name: str, x: jax.Array) -> jax.Array:
    """Computes the RMS norm of x over its last axis, if qk_norm is set.

    The parameter is {name}_norm/scale, of the width of x.
    """
    if not self.qk_norm:
      return x
    how = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    return nn.RMSNorm(name=f'{name}_norm', **how)(x)

  def vector(
    self, name: str, init: Callable, shape: tuple[int, ...], like: jax.Array
  ) -> jax.Array:
    """Creates a parameter [H, width] in the dtype of `like`."""
    x = self.param(name, init, shape, self.param_dtype)
    return jnp.asarray(x, like.dtype)  # NumPy's promotion rules differ

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
    """Attends from inputs_q to inputs_k: [*batch, T, out_features or D].

    With decode=True, `init` on inputs of full length creates the cache. Then
    each call with n tokens appends n to every row, and attends causally to the
    tokens in the row. Rows whose tokens do not fit come out as NaN. If init has
    a mask with a window that is shorter than its inputs, the cache has that
    many places and no end, and all calls are under this window.

    Cross attention is initialised with inputs_k, filled once by
    `prefill_memory`, and then called with inputs_q only. Without prefill_memory
    a call appends its own inputs_k and inputs_v, which have as many tokens as
    inputs_q, as in linen.

    Args:
      inputs_q: [*batch, T, D].
      inputs_k: [*batch, S, D'], default inputs_q.
      inputs_v: [*batch, S, D''], default inputs_k. Not accepted where the
        values are made from the keys or their input (skv, el, mla, gla, gta,
        mfa_kr).
      mask: bool, broadcastable to [*batch, H, T, S], True where attention is
        allowed, or a masks.Mask; when decoding, S is the cache's length.
      deterministic: True switches dropout off.
      dropout_rng: random key, default make_rng('dropout').
      sow_weights: sow the weights before dropout, [*batch, H, T, S], as
        intermediates/attention_weights.
      lengths: int [*batch], how many of the n decoded tokens are real; the
        others are padding on the right.
      positions: int [*batch, T], positions of inputs_q in its sequence, for
        variants that use them (masks do not). The default is 0, 1, ..., or
        continues after the cache's tokens. A memory does not know how many
        queries came before, so pass positions when decoding with one.
      key_positions: int [*batch, S], positions of inputs_k, with the same
        default. The keys of inputs_q have `positions`.

    Raises:
      TypeError: the mask is not bool, or lengths or positions are not int.
      ValueError: shapes do not fit, or the variant does not support the call.
    """
    if inputs_v is not None and not self.separate_values:
      raise ValueError(
        f"{type(self).__name__}'s values are its keys: it takes no inputs_v."
      )
    x, y, z = arguments.inputs(inputs_q, inputs_k, inputs_v)
    batch, (T, D) = inputs_q.shape[:-2], inputs_q.shape[-2:]
    S = None if inputs_k is None else y.shape[1]
    past = self._past()
    if past is not None:
      past.check_call(x.shape[0], T, S, lengths, mask)
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
      # The projections of keys and values run on zero tokens.
      y, z = (jnp.zeros((x.shape[0], 0, n), x.dtype) for n in past.widths[1:])
      keys = keys[:, :0]
    h = self._heads(x, y, z, Positions(queries, keys))
    if past is not None:
      if past.memory:
        h, keys = past.heads(h), past.positions
      else:
        lengths = arguments.lengths(lengths, batch)
        past, h, keys = caches.extend(past, h, keys, lengths)
        self.put_variable('cache', 'past', past)
    elif self.decode:
      widths = None if S is None else (D, y.shape[-1], z.shape[-1])
      reads = self.rope is not None and self.reads_positions
      given = masks.check(mask, batch, self.num_heads, T, h.k.shape[1])
      new = caches.empty(h, reads, widths, given and given.window)
      self.put_variable('cache', 'past', new)
    mask = masks.check(mask, batch, self.num_heads, T, h.k.shape[1])
    if self.mixes_tokens:
      h, mask = masks.hide(mask, h, type(self).__name__), None
    h = self.read(h, Positions(queries, keys))
    if past is not None:
      mask = past.restrict(mask, places)
    o = self._attend(h, mask, batch, deterministic, dropout_rng, sow_weights)
    o = self._gated(x, o)
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

  def prefill_memory(
    self,
    inputs_k: jax.Array,
    inputs_v: jax.Array | None = None,
    *,
    lengths: jax.Array | None = None,
    key_positions: jax.Array | None = None,
  ) -> None:
    """Fills the cache of cross attention, and discards what it held before.

    Args:
      inputs_k: [*batch, S, D'], S at most the length at initialisation.
      inputs_v: [*batch, S, D''], default inputs_k.
      lengths: int [*batch], how many of the S are real; all by default.
      key_positions: int [*batch, S], default 0, 1, ...
    """
    *batch, S, _ = inputs_k.shape
    past = caches.emptied(self._past(), S)
    self.put_variable('cache', 'past', past)
    # The keys are appended as in self-attention, with zero queries.
    x = jnp.zeros((*batch, 0, past.widths[0]), inputs_k.dtype)
    how = dict(lengths=lengths, key_positions=key_positions)
    self(x, inputs_k, inputs_v, **how)
    self.put_variable('cache', 'past', self._past().replace(memory=True))

  def _past(self):
    """Returns the cache, or None if there is none yet."""
    return self.get_variable('cache', 'past') if self.decode else None

  def _heads(self, *args):
    """Calls `heads`, and normalises queries and keys if normalize_qk is set."""
    h = self.heads(*args)
    if not self.normalize_qk:
      return h
    how = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
    q = nn.LayerNorm(name='query_ln', **how)(h.q)
    k = nn.LayerNorm(name='key_ln', **how)(h.k)
    return h._replace(q=q, k=k)

  def _gated(self, x, o):
    """Multiplies the heads' results o [B, T, H, V'] by their gates."""
    if self.gate == 'none':
      return o
    width = o.shape[3] if self.gate == 'elementwise' else 1
    return o * nn.sigmoid(self.project('gate', x, (self.num_heads, width)))

  def _attend(self, h, mask, batch, deterministic, dropout_rng, sow_weights):
    """Runs the kernel that fits, then `finish`: [B, T, H, V']."""
    dtype = jnp.result_type(*jax.tree.leaves((h.q, h.k, h.v)))
    q, k = h.q.astype(dtype), h.k.astype(dtype)
    v = k if h.v is None else h.v.astype(dtype)
    q = q * (q.shape[-1] ** -0.5 if h.scale is None else h.scale)
    rate, key, H = 0.0, None, self.num_heads
    # Without queries or keys nothing is dropped, so no random key is needed.
    drops = self.dropout_rate > 0 and 0 not in (*q.shape[:2], k.shape[1])
    if drops and not nn.merge_param(
      'deterministic', self.deterministic, deterministic
    ):
      rate = self.dropout_rate
      key = self.make_rng('dropout') if dropout_rng is None else dropout_rng
    # Shapes are found with one token, and tokens are decoded one by one.
    free = self.is_initializing() or self.decode
    implementation = None if free else self.implementation
    how = dict(precision=self.precision, soft_cap=self.soft_cap)
    if sow_weights or (rate and not self.broadcast_dropout):
      choice.check_plain(implementation)
      p, alive = kernels.weights(q, k, h.key_bias, mask, H, **how)
      if sow_weights:
        sown = p.astype(v.dtype).reshape(*batch, *p.shape[1:])
        self.sow('intermediates', 'attention_weights', sown)
      p = kernels.drop(p, rate, key, self.broadcast_dropout)
      o = kernels.mix(p, v, self.precision)
    else:
      how |= dict(key=key, rate=rate, implementation=implementation)
      o, alive = kernels.attend(q, k, v, h.key_bias, mask, H, **how)
    return jnp.where(alive, self.finish(o), 0)
