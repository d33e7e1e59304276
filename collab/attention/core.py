# SPDX-License-Identifier: Apache-2.0
"""The attention layer; a variant only defines how inputs become heads.

Axes: B batch, T queries, S keys, D model, H heads, V value width.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab.attention import arguments, choice, costs, kernels, masks, ragged
from collab.attention import cache as caches
from collab.attention.heads import Heads, Positions
from collab.attention.projections import Projections


class Attention(Projections):
  """Multi-head attention, drop-in for linen's MultiHeadDotProductAttention.

    out = sum_h gate_h * finish(o)_h Wo_h + bo,  o_h as in `Heads`

  Abstract: a variant defines `heads`, perhaps `read` and `finish`, and is
  final. `Fields` has the fields, and `Projections` what a variant's methods
  call. Two things differ from linen. A row with nothing to attend to has zero
  heads and zero gradients (linen: the mean of the values). Masks are bool
  (linen: any number). The call's argument `inputs_kv` raises a TypeError.
  """

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
    a call appends its own inputs_k and inputs_v, a token for each query.

    Args:
      inputs_q: [*batch, T, D].
      inputs_k: [*batch, S, D'], default inputs_q.
      inputs_v: [*batch, S, D''], default inputs_k; refused by variants whose
        values are made from the keys or their input.
      mask: bool, broadcastable to [*batch, H, T, S], True where attention is
        allowed, or a masks.Mask; when decoding, S is the cache's length.
      deterministic: True switches dropout off.
      dropout_rng: random key, default make_rng('dropout').
      sow_weights: sow the weights before dropout, [*batch, H, T, S], as
        intermediates/attention_weights.
      lengths: int [*batch], how many of the n tokens are real, from the left.
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
    if self.window is not None:
      mask = masks.windowed(mask, self.window)
    x, y, z = arguments.inputs(inputs_q, inputs_k, inputs_v)
    batch, (T, D) = inputs_q.shape[:-2], inputs_q.shape[-2:]
    S = None if inputs_k is None else y.shape[1]
    past = self._past()
    start = caches.begin(past, x.shape[0], T, S, lengths, mask)
    at = arguments.positions(positions, key_positions, batch, start, T, S)
    if past is not None and past.memory:  # it has the keys: none are projected
      y, z = (jnp.zeros((x.shape[0], 0, n), x.dtype) for n in past.widths[1:])
      at = at._replace(keys=at.keys[:, :0])
    h = self._heads(x, y, z, at)
    if past is not None:
      lengths = arguments.lengths(lengths, batch)
      past, h, at = caches.extend(past, h, at, lengths)
      if not past.memory:
        self.put_variable('cache', 'past', past)
    mask = masks.check(mask, batch, self.num_heads, T, h.k.shape[1])
    if past is not None:
      mask = past.restrict(mask, start, T)
    elif self.decode:
      widths = None if S is None else (D, y.shape[-1], z.shape[-1])
      reads = self.rope is not None and self.reads_positions
      empty = caches.empty(h, reads, widths, mask and mask.window)
      self.put_variable('cache', 'past', empty)
    elif self.mixes_tokens:
      h, mask = masks.hide(mask, h, type(self).__name__), None
    h = self.read(h, at)
    o = self._attend(h, mask, batch, deterministic, dropout_rng, sow_weights)
    o, axis = self._gated(x, o), (-2, -1)
    if self.value_dims is not None:
      o, axis = ragged.join(o, self.value_dims), -1
    biased = self.use_bias if self.use_out_bias is None else self.use_out_bias
    out = self.project(
      'out',
      o,
      self.out_features or D,
      axis=axis,
      use_bias=biased,
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
    self(x, inputs_k, inputs_v, lengths=lengths, key_positions=key_positions)
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
    if self.value_dims is not None:
      v = ragged.pad(v[:, :, 0], self.value_dims)
    q = q * (q.shape[-1] ** -0.5 if h.scale is None else h.scale)
    rate, key, H = 0.0, None, self.num_heads
    # Without queries or keys nothing is dropped, so no random key is needed.
    drops = self.dropout_rate > 0 and 0 not in (*q.shape[:2], k.shape[1])
    given = self.deterministic, deterministic
    if drops and not nn.merge_param('deterministic', *given):
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
      how |= dict(key=key, rate=rate, decode=self.decode)
      how |= dict(implementation=implementation)
      o, alive = kernels.attend(q, k, v, h.key_bias, mask, H, **how)
    return jnp.where(alive, self.finish(o), 0)
