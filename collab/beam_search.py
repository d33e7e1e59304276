# SPDX-License-Identifier: Apache-2.0
"""Beam search for the most probable sequences, over any step function.

Step functions, arguments and axes are those of `decoding`; N is the size of the
beam.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from collab import checks, decoding
from collab.attention import cache_take
from collab.models import split

MAX_ALPHA = 10  # float32 holds the penalty of 10,000 tokens


def beam(
  step: Callable,
  cache: Any,
  prompt: ArrayLike,
  *,
  eos: int,
  pad: int,
  max_length: int,
  size: int = 4,
  alpha: float = 0.6,
  **optional: ArrayLike | None,
) -> decoding.Decoded:
  """Finds the N best y by score(y) = log p(y) / ((5 + |y|) / 6)^alpha.

  Wu et al., 2016 (GNMT), equation 14; |y| counts eos. Each step keeps the N
  most probable continuations of the live hypotheses. Continuations that end
  compete for the N best finished ones; the others stay live. A live hypothesis
  is dropped if it could not beat the worst of N finished ones even with
  probability 1 for all later tokens. A row is done when it has no live
  hypothesis. Among equals the earlier finished one wins, then the better
  parent, then the lower id. size=1 is decoding.greedy.

  Args:
    size: N.
    alpha: length penalty, 0 to MAX_ALPHA; 0 for none.

  Returns:
    decoding.Decoded, tokens [B, N, L] and scores [B, N], best first. Where
    fewer than N hypotheses are found, the rest is pad with score -inf.
  """
  check(size, alpha)
  logits, cache, limits = decoding.prefill(
    step, cache, prompt, eos, pad, max_length, **optional
  )
  (B, V), N, limits = logits.shape, size, limits[:, None]
  rows = jnp.arange(B)[:, None]
  penalty = ((5 + np.arange(max_length + 1)) / 6) ** alpha
  penalty = jnp.asarray(penalty, jnp.float32)  # grows with the length

  def select(s, logits):
    # By logits first: two of them can round to the same log probability.
    _, ids = jax.lax.top_k(logits, min(N, V))
    gained = jnp.take_along_axis(jax.nn.log_softmax(logits), ids, axis=-1)
    sums = s.live[:, :, None] + gained
    # A NaN of positive sign sorts first, and so shows in the result.
    sums = jnp.where(jnp.isnan(sums), jnp.nan, sums)
    sums = jnp.where(s.live[:, :, None] == -jnp.inf, -jnp.inf, sums)
    live, best = jax.lax.top_k(sums.reshape(B, -1), N)
    parents, last = best // ids.shape[-1], ids.reshape(B, -1)[rows, best]
    tokens = s.tokens[rows, parents].at[:, :, s.t].set(last)
    t = s.t + 1

    ended = (last == eos) | (t >= limits)
    new = jnp.where(ended, live / penalty[t], -jnp.inf)
    scores, best = jax.lax.top_k(jnp.concatenate([s.scores, new], axis=1), N)
    finished = jnp.concatenate([s.finished, tokens], axis=1)[rows, best]
    # Sums are negative and only decrease, so the longest penalty is the bound.
    hopeless = live / penalty[limits] <= scores[:, -1:]
    live = jnp.where(ended | hopeless, -jnp.inf, live)
    return _Beams(t, parents, last, tokens, live, finished, scores)

  def advance(carry):
    s, cache = carry
    logits, new = decoding.call(step, s.last.reshape(B * N, 1), cache, V)
    s = select(s, logits.reshape(B, N, V))
    origin = (rows * N + s.parents).reshape(-1)
    # What a step returns unchanged (the memory of cross attention) is the same
    # for all hypotheses of a row, so there is nothing to reorder.
    take = lambda x, before: x if x is before else cache_take(x, origin)
    return s, jax.tree.map(take, new, cache)

  empty = jnp.full((B, N, max_length), pad, jnp.int32)
  one = jnp.where(jnp.arange(N) == 0, 0.0, -jnp.inf)[None]  # one hypothesis: ''
  live = jnp.where(limits > 0, one, -jnp.inf)
  scores = jnp.where(limits > 0, -jnp.inf, one)
  none = jnp.zeros((B, N), jnp.int32)
  s = _Beams(jnp.int32(0), none, none, empty, live, empty, scores)
  s = select(s, jnp.repeat(logits[:, None], N, axis=1))
  cache = cache_take(cache, jnp.repeat(jnp.arange(B), N))
  alive = lambda carry: jnp.any(carry[0].live != -jnp.inf)
  s, _ = split.while_loop(alive, advance, (s, cache))
  # Where nothing finished, the tokens of a dropped hypothesis may remain.
  tokens = jnp.where(s.scores[:, :, None] == -jnp.inf, pad, s.finished)
  return decoding.Decoded(tokens, s.scores)


def check(size: int, alpha: float) -> None:
  """Raises ValueError for settings that `beam` does not support."""
  checks.at_least('size', size, 1)
  checks.within('alpha', alpha, 0, MAX_ALPHA)


class _Beams(NamedTuple):
  """The state of beam search after t tokens."""

  t: jax.Array
  parents: jax.Array  # [B, N], the hypothesis that each one continues
  last: jax.Array  # [B, N], the last token of each
  tokens: jax.Array  # [B, N, L]
  live: jax.Array  # [B, N], log probability; -inf if not live
  finished: jax.Array  # [B, N, L]
  scores: jax.Array  # [B, N], of finished hypotheses, best first
