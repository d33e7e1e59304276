# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding, beam search and sampling, over any step function.

  step(tokens [B, n] int32, cache, lengths=None) -> (logits [B, n, V], cache)

appends n tokens to what the cache (any pytree of arrays [B, ...]) holds of each
row; the caller closes over the parameters. lengths [B], how many of the n are
real, comes with the prompt, and only if prompt_lengths does. All but arrays is
static under jit.

Axes: B rows, P prompt, L = max_length, N = size of the beam, V vocabulary.

Arguments of all three:
  step, cache: see above; the cache as it is before the prompt.
  prompt: int [B, P], padded on the right; for translation P = 1 (bos).
  eos: id that ends a row and belongs to it, or -1: nothing does.
  pad: id that fills a row after its end.
  max_length: L, how many tokens to generate at most.
  prompt_lengths: int [B], each 1 to P; default P.
  limits: int [B], each row's own max_length, cut to L; default L. A row ends at
    its limit without eos; with 0 it is empty, score 0.
  capacity: places of a row in the cache, checked if given. P + L - 1 are
    needed: the last token is not fed back.

What does not fit is a ValueError. What a jitted program cannot refuse (NaN
logits, a traced prompt length outside of 1 to P) makes the row's scores NaN. No
row depends on another.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collab.attention import cache_take
from collab.io import text_lines

CHUNK = 512  # tokens of a prompt at a time


class Decoded(NamedTuple):
  """What decoding returns; `beam` has an axis of N hypotheses after B.

  Attributes:
    tokens: int32 [B, L], without the prompt; eos, then pad, at the end.
    scores: float32 [B], the sum of the tokens' log probabilities.
  """

  tokens: jax.Array
  scores: jax.Array


def line(tokenizer, ids, score):
  """The text of a row of Decoded as one line.

  A line break that the model emits becomes a blank. If the score is not finite,
  the tokens mean nothing: a FloatingPointError in the place of the text.
  """
  if not math.isfinite(score):
    return FloatingPointError("the model's outputs are not finite")
  return text_lines.one(tokenizer.decode(ids))


def greedy(step, cache, prompt, *, eos, pad, max_length, **optional):
  """y_t = argmax_y p(y | y_<t), the lowest id of equals."""
  start = _prefill(step, cache, prompt, eos, pad, max_length, **optional)
  choose = lambda logits, t: jnp.argmax(logits, axis=-1)
  return _roll_out(step, start, choose, eos, pad, max_length)


def sample(
  step,
  cache,
  prompt,
  key,
  *,
  eos,
  pad,
  max_length,
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  **optional,
):
  """y_t ~ p(y | y_<t)^(1 / temperature), within top_k, then within top_p.

  Token t of row b depends on the key, b and t. Scores are those of p itself.

  Args:
    key: random key.
    temperature: above 0.
    top_k: only the k most probable tokens, 0 for all.
    top_p: only the most probable tokens, up to and including the one with which
      they reach this probability; 1 for all.
  """
  tiny = np.finfo(np.float32).tiny  # compiled code may take less for 0
  if not tiny <= temperature < math.inf:
    raise ValueError(f'temperature must be above 0, got {temperature}.')
  if top_k < 0:
    raise ValueError(f'top_k must be 0 (for all) or more, got {top_k}.')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p must be above 0 and at most 1, got {top_p}.')
  start = _prefill(step, cache, prompt, eos, pad, max_length, **optional)

  def choose(logits, t):
    # The bits of row b do not depend on B (jax_threefry_partitionable).
    key_t = jax.random.fold_in(key, t)
    # The largest becomes 0, so that a small temperature cannot overflow.
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if not top_k and top_p == 1:
      return jax.random.categorical(key_t, logits)
    V = logits.shape[-1]
    logits, ids = jax.lax.top_k(logits, min(top_k or V, V))
    p = jax.nn.softmax(logits)
    better = jnp.cumsum(p, axis=-1) - p
    logits = jnp.where(better < top_p, logits, -jnp.inf)
    rank = jax.random.categorical(key_t, logits)
    return jnp.take_along_axis(ids, rank[:, None], axis=1)[:, 0]

  return _roll_out(step, start, choose, eos, pad, max_length)


def beam(
  step, cache, prompt, *, eos, pad, max_length, size=4, alpha=0.6, **optional
):
  """score(y) = log p(y) / ((5 + |y|) / 6)^alpha, the N best that are found.

  Wu et al., 2016 (GNMT), equation 14; |y| counts eos. Each step keeps the N
  most probable continuations of the live hypotheses. Those that end here leave
  for the N best finished ones, the others live on. A live one is given up if it
  could not beat the worst of N finished ones even though all that follows had
  probability 1; a row is done when none lives. Between equals wins what
  finished first, then the better parent, then the lower id. size=1 is `greedy`.

  Args:
    size: N.
    alpha: 0 or more; 0 for no penalty.

  Returns:
    Decoded, tokens [B, N, L] and scores [B, N], best first. Where fewer than N
    hypotheses are found, the rest is pad, with score -inf.
  """
  check_beam(size, alpha)
  start = _prefill(step, cache, prompt, eos, pad, max_length, **optional)
  logits, cache, limits = start
  (B, V), N, limits = logits.shape, size, limits[:, None]
  rows = jnp.arange(B)[:, None]
  penalty = ((5 + np.arange(max_length + 1)) / 6) ** alpha
  penalty = jnp.asarray(penalty, jnp.float32)  # grows with the length

  def select(s, logits):
    # By logits first: two of them can round to the same log probability.
    _, ids = jax.lax.top_k(logits, min(N, V))
    gained = jnp.take_along_axis(jax.nn.log_softmax(logits), ids, axis=-1)
    sums = s.live[:, :, None] + gained
    # NaN of positive sign is sorted first, and so shows in the result.
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
    # Sums are negative and only fall: at best, the longest penalty helps.
    hopeless = live / penalty[limits] <= scores[:, -1:]
    live = jnp.where(ended | hopeless, -jnp.inf, live)
    return _Beams(t, parents, last, tokens, live, finished, scores)

  def advance(carry):
    s, cache = carry
    logits, new = _call(step, s.last.reshape(B * N, 1), cache, V)
    s = select(s, logits.reshape(B, N, V))
    origin = (rows * N + s.parents).reshape(-1)
    # What a step hands back untouched (the memory of cross attention) is the
    # same for all hypotheses of a row: nothing to reorder.
    take = lambda x, before: x if x is before else cache_take(x, origin)
    return s, jax.tree.map(take, new, cache)

  empty = jnp.full((B, N, max_length), pad, jnp.int32)
  one = jnp.where(jnp.arange(N) == 0, 0.0, -jnp.inf)[None]  # hypothesis: ''
  live = jnp.where(limits > 0, one, -jnp.inf)
  scores = jnp.where(limits > 0, -jnp.inf, one)
  none = jnp.zeros((B, N), jnp.int32)
  s = _Beams(jnp.int32(0), none, none, empty, live, empty, scores)
  s = select(s, jnp.repeat(logits[:, None], N, axis=1))
  cache = cache_take(cache, jnp.repeat(jnp.arange(B), N))
  alive = lambda carry: jnp.any(carry[0].live != -jnp.inf)
  s, _ = jax.lax.while_loop(alive, advance, (s, cache))
  # Where nothing finished, there may be the tokens of what was given up.
  tokens = jnp.where(s.scores[:, :, None] == -jnp.inf, pad, s.finished)
  return Decoded(tokens, s.scores)


def check_beam(size, alpha):
  """Refuses, with a ValueError, what `beam` cannot be run with."""
  if size < 1:
    raise ValueError(f'size must be 1 or more, got {size}.')
  if not 0 <= alpha < math.inf:
    raise ValueError(f'alpha must be 0 or more, got {alpha}.')


class _Beams(NamedTuple):
  """The state of beam search after t tokens."""

  t: jax.Array
  parents: jax.Array  # [B, N], which hypothesis each one continues
  last: jax.Array  # [B, N], its last token
  tokens: jax.Array  # [B, N, L]
  live: jax.Array  # [B, N], its log probability; -inf: it does not live
  finished: jax.Array  # [B, N, L]
  scores: jax.Array  # [B, N], of the finished ones, best first


def _prefill(
  step,
  cache,
  prompt,
  eos,
  pad,
  L,
  prompt_lengths=None,
  limits=None,
  capacity=None,
):
  """Checks, runs the prompt; first logits [B, V], the cache, limits [B]."""
  if L < 1:
    raise ValueError(f'max_length must be 1 or more, got {L}.')
  prompt = jnp.asarray(prompt)
  if prompt.ndim != 2 or 0 in prompt.shape or prompt.dtype.kind not in 'iu':
    raise ValueError(
      f'prompt must be integers [B, P], got {prompt.dtype} {prompt.shape}.'
    )
  B, P = prompt.shape
  if capacity is not None and capacity < P + L - 1:
    raise ValueError(
      f'A prompt of {P} and max_length={L} need {P + L - 1} places, got '
      f'capacity={capacity}.'
    )
  for path, x in jax.tree.leaves_with_path(cache):
    if jnp.shape(x)[:1] != (B,):
      raise ValueError(
        f'The cache must be arrays of {B} rows, as the prompt, got '
        f'{jnp.shape(x)} at {jax.tree_util.keystr(path) or "its root"}.'
      )
  limits = _per_row('limits', limits, L, B, 0, math.inf)
  n = _per_row('prompt_lengths', prompt_lengths, P, B, 1, P)
  padded = prompt_lengths is not None
  logits, cache = _read(step, cache, prompt.astype(jnp.int32), n, padded)
  V = logits.shape[-1]
  if not (-1 <= eos < V and 0 <= pad < V):
    raise ValueError(
      f'eos must be -1 (none) to {V - 1}, pad 0 to {V - 1}; got {eos}, {pad}.'
    )
  return logits, cache, jnp.clip(limits, 0, L)


def _read(step, cache, prompt, n, padded):
  """Appends the prompt, CHUNK tokens at a time; the logits [B, V] after it.

  So the logits [B, P, V] never exist in full. Those after it are NaN where n,
  the lengths, is outside of 1 to P. Only if `padded` does step get lengths.
  """
  B, P = prompt.shape
  first = (P - 1) % CHUNK + 1

  def run(start, tokens, cache, logits=jnp.nan):
    size = tokens.shape[1]
    lengths = dict(lengths=jnp.clip(n - start, 0, size)) if padded else {}
    new, cache = _call(step, tokens, cache, **lengths)
    last = n - 1 - start
    new = new[jnp.arange(B), jnp.clip(last, 0, size - 1)]
    here = (last >= 0) & (last < size)
    return start + size, jnp.where(here[:, None], new, logits), cache

  def go_on(carry, tokens):
    start, logits, cache = carry
    return run(start, tokens, cache, logits), None

  carry = run(jnp.int32(0), prompt[:, :first], cache)
  if first < P:
    chunks = prompt[:, first:].reshape(B, -1, CHUNK).swapaxes(0, 1)
    carry, _ = jax.lax.scan(go_on, carry, chunks)
  return carry[1:]


def _per_row(name, x, default, B, low, high):
  """x as int32 [B], its values checked as far as they are known."""
  x = [default] * B if x is None else x
  x = x if isinstance(x, jax.core.Tracer) else np.asarray(x)
  if x.shape != (B,) or x.dtype.kind not in 'iu':
    raise ValueError(
      f'{name} must be integers [{B}], got {x.dtype} {list(x.shape)}.'
    )
  if isinstance(x, np.ndarray) and ((x < low) | (x > high)).any():
    raise ValueError(f'{name} must be {low} to {high}, got {x}.')
  return jnp.asarray(x, jnp.int32)


def _call(step, tokens, cache, V=None, **lengths):
  """step(...), its logits checked and float32."""
  logits, cache = step(tokens, cache, **lengths)
  if logits.shape != (*tokens.shape, V or logits.shape[-1]):
    want = (*tokens.shape, V or 'V')
    raise ValueError(f'step must return logits {want}, got {logits.shape}.')
  return logits.astype(jnp.float32), cache


def _roll_out(step, start, choose, eos, pad, L):
  """One continuation of each row by choose(logits [B, V], t) -> ids [B]."""
  logits, cache, limits = start
  B, V = logits.shape

  def extend(t, done, tokens, scores, logits):
    new = choose(logits, t).astype(jnp.int32)
    gained = jnp.take_along_axis(jax.nn.log_softmax(logits), new[:, None], 1)
    scores += jnp.where(done, 0.0, gained[:, 0])
    new = jnp.where(done, pad, new)
    done |= (new == eos) | (t + 1 >= limits)
    return t + 1, done, tokens.at[:, t].set(new), scores, new

  def advance(carry):
    *state, last, cache = carry
    logits, cache = _call(step, last[:, None], cache, V)
    return *extend(*state, logits[:, 0]), cache

  tokens = jnp.full((B, L), pad, jnp.int32)
  state = extend(jnp.int32(0), limits == 0, tokens, jnp.zeros(B), logits)
  going = lambda carry: ~jnp.all(carry[1])
  carry = jax.lax.while_loop(going, advance, (*state, cache))
  return Decoded(carry[2], carry[3])
