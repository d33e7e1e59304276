# SPDX-License-Identifier: Apache-2.0
"""What an attention variant passes to the layer: heads, and positions.

Axes: B batch, T queries, S keys, H heads, G groups of heads that share, K key
width, V value width.
"""

from typing import NamedTuple

import jax


class Heads(NamedTuple):
  """The heads that a variant computes; nothing that heads share is expanded.

    o_h = softmax_s(cap(scale q_h . k_h + key_bias_h)) v_h,  h = 1..H

  Gq, Gk and Gv each divide H; head h uses group h // (H / G). What a variant
  caches in their place may have other sizes until `Attention.read` makes heads
  of it. cap(s) is c tanh(s / c) with soft_cap = c, else s.

  Attributes:
    q: [B, T, Gq, K].
    k: [B, S, Gk, K].
    v: [B, S, Gv, V], or None where the values are the keys.
    key_bias: [B, S, H], already scaled, or None.
    scale: factor of q . k; default 1 / sqrt(K).
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array | None = None
  key_bias: jax.Array | None = None
  scale: float | None = None


class Positions(NamedTuple):
  """The positions of a call's tokens in their sequences.

  Attributes:
    queries: int [B|1, T].
    keys: int [B|1, S].
  """

  queries: jax.Array
  keys: jax.Array
