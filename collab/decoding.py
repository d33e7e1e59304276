# SPDX-License-Identifier: Apache-2.0
"""Generates tokens from any step function: greedy decoding and sampling.

  step(tokens [B, n] int32, cache, lengths=None) -> (logits [B, n, V], cache)

It appends n tokens to what the cache (any pytree of arrays [B, ...]) holds of
each row; the caller closes over the parameters. lengths [B], how many of the n
are real, is passed with the prompt, and only if prompt_lengths is given. Under
jit, all arguments except arrays are static.

Axes: B rows, P prompt, L = max_length, V vocabulary.

Arguments of these two functions and of beam_search.beam:
  step, cache: see above; the cache is that before the prompt. It needs P + L -
    1 places a row, because the last token is not fed back.
  prompt: int [B, P], padded on the right; for translation P = 1 (bos).
  eos: id that ends a row and belongs to it, or -1 for none.
  pad: id that fills a row after its end.
  max_length: L, the maximum number of tokens to generate.
  prompt_lengths: int [B], each 1 to P; default P.
  limits: int [B], each row's own max_length, cut to L; default L. A row ends at
    its limit without eos; with 0 it is empty and has score 0.

Impossible arguments raise a ValueError. What a jitted program cannot refuse
(NaN logits, a traced prompt length outside of 1 to P) makes the row's scores
NaN. Rows do not depend on each other.
"""

from collections.abc import Callable, Iterable, Mapping
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from collab import checks, models
from collab.io import text_lines
from collab.models import split

if TYPE_CHECKING:
  from collab.data.tokenizer import Tokenizer

CHUNK = 512  # tokens of a prompt that are processed at a time


class Decoded(NamedTuple):
  """The result of decoding; for beam search N sequences follow the axis B.

  Attributes:
    tokens: int32 [B, L], without the prompt; eos, then pad, at the end.
    scores: float32 [B], the sum of the tokens' log probabilities.
  """

  tokens: jax.Array
  scores: jax.Array


def empty_cache(
  model: models.Model, rows: int, places: int, *memory: jax.Array
) -> Any:
  """Makes the cache of a model that has decoded nothing yet, as zeros.

  Args:
    model: models.Decoder or models.EncoderDecoder.
    rows: B.
    places: maximum number of tokens of a row.
    *memory: the encoder's output, [B, S, D], if the model attends to one.
  """
  init = functools.partial(model.clone(decode=True).init, method='next_logits')
  tokens = jnp.zeros((rows, places), jnp.int32)
  shapes = jax.eval_shape(init, jax.random.key(0), tokens, *memory)['cache']
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def step_of(
  model: models.Model, params: Mapping, method: str = 'next_logits'
) -> Callable:
  """Makes a step function of a model's method that reads and fills a cache."""
  decoder = model.clone(decode=True)

  def step(tokens, cache, **lengths):
    variables = {'params': split.after(params, tokens), 'cache': cache}
    logits, new = decoder.apply(
      variables, tokens, **lengths, method=method, mutable=['cache']
    )
    return logits, new['cache']

  return step


def line(
  tokenizer: 'Tokenizer', ids: Iterable[int], score: float
) -> str | FloatingPointError:
  """Converts a row of Decoded to text in one line.

  A line break becomes a blank. If the score is not finite, the tokens have no
  meaning, and a FloatingPointError is returned instead of the text.
  """
  if not math.isfinite(score):
    return FloatingPointError("the model's outputs are not finite")
  return text_lines.one(tokenizer.decode(ids))


def greedy(
  step: Callable,
  cache: Any,
  prompt: ArrayLike,
  *,
  eos: int,
  pad: int,
  max_length: int,
  **optional: ArrayLike | None,
) -> Decoded:
  """Decodes y_t = argmax_y p(y | y_<t), the lowest id among equals."""
  start = prefill(step, cache, prompt, eos, pad, max_length, **optional)
  choose = lambda logits, t: jnp.argmax(logits, axis=-1)
  return _roll_out(step, start, choose, eos, pad, max_length)


def sample(
  step: Callable,
  cache: Any,
  prompt: ArrayLike,
  keys: jax.Array,
  *,
  eos: int,
  pad: int,
  max_length: int,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  **optional: ArrayLike | None,
) -> Decoded:
  """Samples y_t ~ p(y | y_<t)^(1 / temperature), within top_k, then top_p.

  Token t of a row depends on the row's key and t. Scores are those of p itself.

  Args:
    keys: random keys [B].
    temperature: above 0.
    top_k: keeps only the k most probable tokens; 0 keeps all.
    top_p: keeps only the most probable tokens, up to and including the one with
      which they reach this probability; 1 keeps all.
  """
  # Less than tiny may count as 0 in compiled code.
  legal = np.finfo(np.float32)
  if not float(legal.tiny) <= temperature <= float(legal.max):
    raise ValueError(f'temperature must be above 0, got {temperature}.')
  check_within(top_k, top_p)
  start = prefill(step, cache, prompt, eos, pad, max_length, **optional)
  B, got = len(start[0]), list(jnp.shape(keys))
  if got != [B]:
    raise ValueError(f'keys must be random keys [{B}], one a row, got {got}.')

  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  def draw(key, logits, t):
    return jax.random.categorical(jax.random.fold_in(key, t), logits)

  def choose(logits, t):
    # The largest logit becomes 0, so that a small temperature cannot overflow.
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if not top_k and top_p == 1:
      return draw(keys, logits, t)
    V = logits.shape[-1]
    logits, ids = jax.lax.top_k(logits, min(top_k or V, V))
    p = jax.nn.softmax(logits)
    better = jnp.cumsum(p, axis=-1) - p
    logits = jnp.where(better < top_p, logits, -jnp.inf)
    rank = draw(keys, logits, t)
    return jnp.take_along_axis(ids, rank[:, None], axis=1)[:, 0]

  return _roll_out(step, start, choose, eos, pad, max_length)


def check_within(top_k: int = 0, top_p: float = 1.0) -> None:
  """Raises ValueError for settings that `sample` does not support."""
  checks.at_least('top_k', top_k, 0, ' (for all)')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p must be above 0 and at most 1, got {top_p}.')


def prefill(
  step: Callable,
  cache: Any,
  prompt: ArrayLike,
  eos: int,
  pad: int,
  L: int,
  prompt_lengths: ArrayLike | None = None,
  limits: ArrayLike | None = None,
) -> tuple[jax.Array, Any, jax.Array]:
  """Checks, and runs the prompt: logits [B, V], the cache, limits [B]."""
  checks.at_least('max_length', L, 1)
  prompt = jnp.asarray(prompt)
  if prompt.ndim != 2 or 0 in prompt.shape or prompt.dtype.kind not in 'iu':
    raise ValueError(
      f'prompt must be integers [B, P], got {prompt.dtype} {prompt.shape}.'
    )
  B, P = prompt.shape
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
  """Appends the prompt, CHUNK tokens at a time; returns logits [B, V] after it.

  So the logits [B, P, V] never exist in full. The returned logits are NaN where
  a length in n is outside of 1 to P. step gets lengths only if `padded`.
  """
  B, P = prompt.shape
  first = (P - 1) % CHUNK + 1

  def run(start, tokens, cache, logits=jnp.nan):
    size = tokens.shape[1]
    lengths = dict(lengths=jnp.clip(n - start, 0, size)) if padded else {}
    new, cache = call(step, tokens, cache, **lengths)
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
  """Converts x to int32 [B], and checks its values as far as they are known."""
  x = [default] * B if x is None else x
  x = x if isinstance(x, jax.core.Tracer) else np.asarray(x)
  if x.shape != (B,) or x.dtype.kind not in 'iu':
    raise ValueError(
      f'{name} must be integers [{B}], got {x.dtype} {list(x.shape)}.'
    )
  if isinstance(x, np.ndarray) and ((x < low) | (x > high)).any():
    raise ValueError(f'{name} must be {low} to {high}, got {x}.')
  return jnp.asarray(x, jnp.int32)


def call(
  step: Callable,
  tokens: jax.Array,
  cache: Any,
  V: int | None = None,
  **lengths: jax.Array,
) -> tuple[jax.Array, Any]:
  """Calls step(...), checks its logits and casts them to float32."""
  logits, cache = step(tokens, cache, **lengths)
  if logits.shape != (*tokens.shape, V or logits.shape[-1]):
    want = (*tokens.shape, V or 'V')
    raise ValueError(f'step must return logits {want}, got {logits.shape}.')
  return logits.astype(jnp.float32), cache


def _roll_out(step, start, choose, eos, pad, L):
  """Extends each row once by choose(logits [B, V], t) -> ids [B]."""
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
    logits, cache = call(step, last[:, None], cache, V)
    return *extend(*state, logits[:, 0]), cache

  tokens = jnp.full((B, L), pad, jnp.int32)
  state = extend(jnp.int32(0), limits == 0, tokens, jnp.zeros(B), logits)
  going = lambda carry: ~jnp.all(carry[1])
  carry = split.while_loop(going, advance, (*state, cache))
  return Decoded(carry[2], carry[3])
