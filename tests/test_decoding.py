# SPDX-License-Identifier: Apache-2.0
"""Decoding and beam search against brute force.

Their caches betray a wrong reordering.
"""

import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention, beam_search, decoding
from tests.few import few

V, EOS, PAD = 4, 1, 0
M = 127  # contexts that the toy model tells apart


def table(V=V, seed=0, eos_bonus=0.0):
  logits = np.random.default_rng(seed).normal(0, 1.5, (M, V))
  logits[:, EOS] += eos_bonus
  return logits.astype(np.float32)


def toy(logits, C=16):
  """A language model whose next token depends on all tokens before it.

  The cache holds a hash of the row's tokens, how many they are (more than C
  give NaN, as attention's does), and a memory, returned untouched.
  """

  def step(tokens, cache, lengths=None):
    B, n = tokens.shape
    hashes = [cache['hash']]
    for t in range(n):
      hashes.append((hashes[-1] * 5 + tokens[:, t] + 1) % M)
    hashes = jnp.stack(hashes, axis=1)
    lengths = jnp.full(B, n) if lengths is None else lengths
    index = cache['index'] + lengths
    out = jnp.asarray(logits)[(hashes[:, 1:] + cache['memory'][:, None]) % M]
    out = jnp.where(index[:, None, None] > C, jnp.nan, out)
    new = dict(hash=hashes[jnp.arange(B), lengths], index=index)
    return out, new | dict(memory=cache['memory'])

  return step


def toy_cache(memory):
  memory = jnp.asarray(memory, jnp.int32)
  zeros = jnp.zeros_like(memory)
  return dict(hash=zeros, index=zeros, memory=memory)


def context(memory, tokens):
  """The toy's row of logits after the tokens."""
  h = 0
  for y in tokens:
    h = (h * 5 + int(y) + 1) % M
  return (h + memory) % M


def log_p(logits, memory, prompt, tokens):
  """log p of each token after the prompt, by plain Python."""
  out = []
  for t, y in enumerate(tokens):
    x = logits[context(memory, [*prompt, *tokens[:t]])].astype(np.float64)
    out.append(x[y] - np.log(np.exp(x).sum()))
  return out


def every_sequence(V, L):
  """All that end with eos, or at length L without."""
  for n in range(1, L + 1):
    for y in itertools.product(range(V), repeat=n):
      if EOS not in y[:-1] and (y[-1] == EOS or n == L):
        yield y


def exhaustive(logits, memory, prompt, L, alpha):
  """(score, tokens) of every sequence, best first."""
  scored = []
  for y in every_sequence(logits.shape[1], L):
    score = sum(log_p(logits, memory, prompt, y)) / ((5 + len(y)) / 6) ** alpha
    scored.append((score, y))
  return sorted(scored, reverse=True)


def padded(y, L):
  return [*y, *[PAD] * (L - len(y))]


def jitted(f, step, **static):
  """f on the toy's ids, of (cache, *arrays, **rows)."""
  static = dict(eos=EOS, pad=PAD) | static
  call = jax.jit(
    lambda cache, *arrays, **rows: f(step, cache, *arrays, **static, **rows),
    # Compiling is all the time that these tests take.
    compiler_options={'xla_backend_optimization_level': 0},
  )
  return lambda *args, **rows: jax.device_get(call(*args, **rows))


def run(f, step, *args, prompt_lengths=None, limits=None, **static):
  rows = dict(prompt_lengths=prompt_lengths, limits=limits)
  rows = {k: jnp.asarray(v) for k, v in rows.items() if v is not None}
  return jitted(f, step, **static)(*args, **rows)


PROMPT = np.array([[2, 3], [3, 3], [2, 0]], np.int32)
MEMORY = [3, 50, 101]


# Beam search ------------------------------------------------------------------


@pytest.mark.parametrize('alpha, seed', [(0.0, 0), (0.6, 1), (2.0, 2)])
def test_a_beam_wide_enough_equals_exhaustive_search(alpha, seed):
  logits, L = table(seed=seed), 4
  N = len(list(every_sequence(V, L)))
  assert N == 1 + 3 + 9 + 27 * 4
  out = run(
    beam_search.beam, toy(logits), toy_cache(MEMORY), PROMPT,
    max_length=L, size=N, alpha=alpha,
  )  # fmt: skip
  assert out.tokens.shape == (3, N, L)
  for b in range(3):
    want = exhaustive(logits, MEMORY[b], PROMPT[b], L, alpha)
    np.testing.assert_allclose(out.scores[b], [s for s, _ in want], rtol=1e-5)
    got = {tuple(y) for y in out.tokens[b].tolist()}
    assert got == {tuple(padded(y, L)) for _, y in want}
    assert out.tokens[b, 0].tolist() == padded(want[0][1], L)


def reference_beam(logits, memory, prompt, L, N, alpha):
  """Beam search with lists that never stops early."""
  live, finished = [((), 0.0)], []
  for t in range(1, L + 1):
    grown = [
      ((*y, v), s + log_p(logits, memory, prompt, (*y, v))[-1])
      for y, s in live
      for v in range(logits.shape[1])
    ]
    grown = sorted(grown, key=lambda x: -x[1])[:N]
    ends = lambda y: y[-1] == EOS or len(y) == L
    finished += [(s / ((5 + t) / 6) ** alpha, y) for y, s in grown if ends(y)]
    live = [(y, s) for y, s in grown if not ends(y)]
  return sorted(finished, reverse=True)[:N]


@few(
  [(2, 0.0), (2, 3.0), (3, 0.6), (5, 0.6), (5, 3.0)],
  [(2, 3.0), (3, 0.6), (5, 0.6)],
  'N, alpha',
)
def test_stopping_early_changes_nothing(N, alpha):
  """N below, at and above V, against a search that goes on to the end."""
  L, V = 7, 3
  memory = np.arange(0, 60, 3)
  prompt = np.full((20, 1), 2, np.int32)
  logits = table(V=V, seed=2, eos_bonus=1.0)
  out = run(
    beam_search.beam, toy(logits), toy_cache(memory), prompt,
    max_length=L, size=N, alpha=alpha,
  )  # fmt: skip
  for b in range(20):
    want = reference_beam(logits, memory[b], prompt[b], L, N, alpha)
    found = len(want)
    np.testing.assert_allclose(
      out.scores[b, :found], [s for s, _ in want], rtol=1e-5
    )
    assert out.tokens[b, :found].tolist() == [padded(y, L) for _, y in want]
    assert (out.scores[b, found:] == -np.inf).all()
    assert (out.tokens[b, found:] == PAD).all()


def test_a_row_stops_when_nothing_live_can_win():
  calls = []
  logits = np.zeros((M, V), np.float32)
  logits[:, EOS] = 20.0  # ends at once; the rest is hopeless

  def step(tokens, cache, lengths=None):
    jax.debug.callback(lambda: calls.append(1))
    return toy(logits)(tokens, cache, lengths)

  out = run(
    beam_search.beam, step, toy_cache(MEMORY), PROMPT, max_length=9, size=2
  )
  jax.effects_barrier()
  assert out.tokens[:, 0].tolist() == [padded([EOS], 9)] * 3
  assert len(calls) == 2  # the prompt, and one for the second place


@pytest.mark.parametrize('alpha, V', [(0.0, 4), (0.6, 4), (0.6, 11)])
def test_beam_of_one_is_greedy(alpha, V):
  logits = table(V=V, seed=3, eos_bonus=-0.7)
  # Logits that differ, with log probabilities that round to the same.
  logits[::3] = np.float32(3e-9) * np.arange(V)[None] % np.float32(2e-8)
  memory = np.arange(97)
  prompt = np.full((97, 1), PAD, np.int32)
  args = toy(logits), toy_cache(memory), prompt
  one = run(beam_search.beam, *args, max_length=8, size=1, alpha=alpha)
  want = run(decoding.greedy, *args, max_length=8)
  np.testing.assert_array_equal(one.tokens[:, 0], want.tokens)
  lengths = [y.index(EOS) + 1 if EOS in y else 8 for y in want.tokens.tolist()]
  assert len(set(lengths)) > 3
  scores = want.scores / ((5 + np.array(lengths)) / 6) ** alpha
  np.testing.assert_allclose(one.scores[:, 0], scores, rtol=1e-5)


def test_equals_are_broken_by_the_lower_id():
  logits = np.zeros((M, V), np.float32)
  args = toy(logits), toy_cache([7]), np.array([[2]], np.int32)
  out = run(beam_search.beam, *args, max_length=2, size=3, alpha=0.0)
  assert out.tokens[0].tolist() == [[EOS, PAD], [0, 0], [0, EOS]]
  again = run(beam_search.beam, *args, max_length=2, size=3, alpha=0.0)
  np.testing.assert_array_equal(out.tokens, again.tokens)


# Greedy -----------------------------------------------------------------------


def test_greedy_takes_the_most_probable_and_scores_it():
  logits, L = table(seed=4), 9
  args = toy(logits), toy_cache(MEMORY), PROMPT
  out = run(decoding.greedy, *args, max_length=L)
  assert out.tokens.dtype == np.int32
  assert out.scores.dtype == np.float32
  for b in range(3):
    y = []
    while len(y) < L and EOS not in y:
      h = context(MEMORY[b], [*PROMPT[b], *y])
      y.append(int(logits[h].argmax()))
    assert out.tokens[b].tolist() == padded(y, L)
    want = sum(log_p(logits, MEMORY[b], PROMPT[b], y))
    np.testing.assert_allclose(out.scores[b], want, rtol=1e-5)


def test_without_eos_rows_go_on_to_the_end():
  logits = table(eos_bonus=30.0)
  args = toy(logits), toy_cache(MEMORY), PROMPT
  out = run(decoding.greedy, *args, max_length=5, eos=-1)
  assert (out.tokens == EOS).all()
  out = run(beam_search.beam, *args, max_length=5, eos=-1)
  assert (out.tokens[:, 0] == EOS).all()


# All three --------------------------------------------------------------------


def sample_with_a_key(step, cache, prompt, **kwargs):
  keys = row_keys(5, len(prompt))
  return decoding.sample(step, cache, prompt, keys, **kwargs)


def row_keys(seed, B):
  """Those of fewer rows are the first of more."""
  return jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(seed), jnp.arange(B)
  )


# Samples take the way of `greedy`, as tests of their own say.
ALL = few(
  [decoding.greedy, beam_search.beam, sample_with_a_key],
  [decoding.greedy, beam_search.beam],
  'f',
)


@ALL
def test_each_row_ends_at_its_limit(f):
  """As if max_length were the limit of that row alone; 0 leaves it empty."""
  logits = table(seed=5, eos_bonus=-2.0)
  memory, limits = [3, 50, 101, 9], [4, 0, 99, 1]
  prompt = np.full((4, 1), 3, np.int32)
  args = toy(logits), toy_cache(memory), prompt
  out = run(f, *args, max_length=6, limits=limits)
  for b, limit in [(0, 4), (2, 6)]:
    alone = run(f, *args, max_length=limit)
    np.testing.assert_array_equal(out.tokens[b, ..., :limit], alone.tokens[b])
    np.testing.assert_allclose(out.scores[b], alone.scores[b], rtol=1e-6)
  for b, limit in enumerate(limits):
    assert (out.tokens[b, ..., limit:] == PAD).all()
  assert (out.tokens[0] != PAD).any()
  assert out.scores[1].flat[0] == 0


@ALL
def test_rows_are_independent(f):
  """Other rows, and rows that overflow a cache, change nothing bit for bit."""
  logits = table(seed=6, eos_bonus=-1.0)
  memory = np.arange(1, 30, 2)
  prompt = np.full((15, 1), 3, np.int32)
  limits = 1 + np.arange(15) % 7
  many = run(
    f, toy(logits, C=6), toy_cache(memory), prompt,
    max_length=7, limits=limits,
  )  # fmt: skip
  few = run(
    f, toy(logits, C=6), toy_cache(memory[:4]), prompt[:4],
    max_length=7, limits=limits[:4],
  )  # fmt: skip
  np.testing.assert_array_equal(many.tokens[:4], few.tokens)
  np.testing.assert_array_equal(many.scores[:4], few.scores)


@ALL
def test_prompts_may_differ_in_length(f):
  logits = table(seed=7)
  prompt = np.array([[2, 0, 0], [3, 2, 2], [3, 2, 0]], np.int32)
  call = jitted(f, toy(logits), max_length=6)
  cache = toy_cache(MEMORY)
  out = call(cache, prompt, prompt_lengths=np.array([1, 3, 3]))
  for b, n in [(0, 1), (1, 3)]:
    alone = run(f, toy(logits), cache, prompt[:, :n], max_length=6)
    np.testing.assert_array_equal(out.tokens[b], alone.tokens[b])
    np.testing.assert_allclose(out.scores[b], alone.scores[b], rtol=1e-6)
  # Compiled, a length that cannot be shows in its row.
  bad = call(cache, prompt, prompt_lengths=np.array([1, 0, 4]))
  first = bad.scores.reshape(3, -1)[:, 0]
  assert np.isnan(first).tolist() == [False, True, True]
  np.testing.assert_array_equal(bad.tokens[0], out.tokens[0])


@ALL
@few([None, (1, 5, 3)], [(1, 5, 3)], 'lengths')
def test_a_prompt_in_parts_is_the_prompt(f, lengths, monkeypatch):
  prompt = np.random.default_rng(3).integers(2, V, (3, 5), np.int32)
  given = {} if lengths is None else dict(prompt_lengths=np.array(lengths))
  args = toy(table(seed=12)), toy_cache(MEMORY), prompt
  whole = run(f, *args, max_length=6, **given)
  for chunk in (1, 2, 3, 5):
    monkeypatch.setattr(decoding, 'CHUNK', chunk)
    parts = run(f, *args, max_length=6, **given)
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_array_equal(parts.scores, whole.scores)


@ALL
def test_the_last_place_of_the_cache_is_used(f):
  logits = table(seed=8, eos_bonus=-30.0)
  args = toy(logits, C=6), toy_cache(MEMORY), PROMPT
  out = run(f, *args, max_length=5)
  assert np.isfinite(out.scores).all()
  out = run(f, *args, max_length=6)  # one more than it has
  assert np.isnan(out.scores.reshape(3, -1)[:, 0]).all()


@ALL
def test_nan_shows_in_its_row_only(f):
  logits = table(seed=9)

  def step(tokens, cache, lengths=None):
    out, new = toy(logits)(tokens, cache, lengths)
    for memory, nan in [(50, np.nan), (51, -np.nan)]:
      broken = (cache['memory'] == memory) & (new['index'] >= 4)
      out = jnp.where(broken[:, None, None], jnp.float32(nan), out)
    return out, new

  call = jitted(f, step, max_length=9, eos=-1)
  prompt = np.full((4, 2), 3, np.int32)
  good = call(toy_cache([3, 52, 53, 101]), prompt)
  assert np.isfinite(good.scores).all()
  out = call(toy_cache([3, 50, 51, 101]), prompt)
  first = out.scores.reshape(4, -1)[:, 0]
  assert np.isnan(first).tolist() == [False, True, True, False]
  np.testing.assert_array_equal(out.tokens[[0, 3]], good.tokens[[0, 3]])


def test_a_row_as_a_line():
  class Letters:
    def decode(self, ids):
      return ''.join(map(chr, ids))

  for text in ('a b', 'a\nb', 'a\r\nb', 'a\n\rb'):
    assert decoding.line(Letters(), list(map(ord, text)), -1.5) == 'a b'
  # These end no line, as files are read here.
  assert decoding.line(Letters(), [97, 0x2028, 12], 0.0) == 'a\u2028\f'
  for score in (np.float32(np.nan), -np.inf):
    line = decoding.line(Letters(), [97], score)
    assert isinstance(line, FloatingPointError)


WRONG = [
  (dict(max_length=0), 'max_length=0; expected at least 1'),
  (dict(prompt=PROMPT[0]), r'prompt must be integers \[B, P\], got int32'),
  (dict(prompt=PROMPT * 1.0), r'prompt must be integers'),
  (dict(prompt=PROMPT[:, :0]), r'prompt must be integers'),
  (
    dict(prompt=PROMPT[:2]),
    r"arrays of 2 rows.*got \(3,\) at \['hash'\]",
  ),
  (
    dict(limits=np.array([1, 2])),
    r'limits must be integers \[3\].*got .*\[2\]',
  ),
  (dict(limits=np.ones(3)), 'limits must be integers .*got float'),
  (
    dict(limits=np.array([1, -2, 3])),
    r'limits must be 0 to .*got \[ 1 -2  3\]',
  ),
  (
    dict(prompt_lengths=np.array([2, 1, 3])),
    r'prompt_lengths must be 1 to 2, got \[2 1 3\]',
  ),
  (dict(eos=4), 'eos must be -1 .none. to 3, pad 0 to 3; got 4, 0'),
  (dict(eos=-2), 'eos must be -1'),
  (dict(pad=-1), 'got 1, -1'),
  (
    dict(step=lambda x, cache: (jnp.zeros(x.shape), cache)),
    r"step must return logits \(3, 2, 'V'\), got \(3, 2\)",
  ),
]


@ALL
@pytest.mark.parametrize('change, message', WRONG)
def test_wrong_arguments(f, change, message):
  kwargs = dict(step=toy(table()), cache=toy_cache(MEMORY), prompt=PROMPT)
  kwargs |= dict(eos=EOS, pad=PAD, max_length=3)
  with pytest.raises(ValueError, match=message):
    f(**kwargs | change)


def test_limits_that_the_program_knows_are_checked_under_jit():
  for limits in [0, 2, -1], np.array([0, 2, -1]), jnp.array([0, 2, -1]):
    call = jitted(decoding.greedy, toy(table()), max_length=3, limits=limits)
    with pytest.raises(ValueError, match='limits must be 0 to'):
      call(toy_cache(MEMORY), PROMPT)


@pytest.mark.parametrize(
  'f, change, message',
  [
    (beam_search.beam, dict(alpha=1e30), r'alpha=1e\+30; expected 0 to 10'),
    (beam_search.beam, dict(size=0), 'size=0; expected at least 1'),
    (beam_search.beam, dict(alpha=-0.1), r'alpha=-0\.1; expected 0 to 10'),
    (sample_with_a_key, dict(temperature=0), 'temperature must be above 0'),
    (sample_with_a_key, dict(temperature=np.nan), 'temperature .* got nan'),
    (sample_with_a_key, dict(top_k=-1), 'top_k=-1; expected at least 0'),
    (sample_with_a_key, dict(top_p=0), 'top_p must be above 0 .* got 0'),
    (sample_with_a_key, dict(top_p=1.5), 'top_p must be .* got 1.5'),
  ],
)
def test_wrong_options(f, change, message):
  args = toy(table()), toy_cache(MEMORY), PROMPT
  with pytest.raises(ValueError, match=message):
    f(*args, eos=EOS, pad=PAD, max_length=3, **change)


# Sampling ---------------------------------------------------------------------


@pytest.mark.parametrize(
  'options', [dict(top_k=1), dict(top_p=1e-6), dict(temperature=1e-30)]
)
def test_sampling_narrowed_down_is_greedy(options):
  args = toy(table(V=11, seed=10)), toy_cache(MEMORY), PROMPT
  out = run(sample_with_a_key, *args, max_length=9, **options)
  want = run(decoding.greedy, *args, max_length=9)
  np.testing.assert_array_equal(out.tokens, want.tokens)
  np.testing.assert_allclose(out.scores, want.scores, rtol=1e-5)


def draw(options, B=20_000):
  """The first two tokens of B rows alike, and the logits of the first."""
  logits = table(V=7, seed=11, eos_bonus=-30.0)
  prompt = np.full((B, 1), 2, np.int32)
  args = toy(logits, C=2), toy_cache(np.full(B, 5)), prompt
  out = run(
    lambda *args, **kwargs: decoding.sample(
      *args, row_keys(12, B), **kwargs
    ),
    *args, max_length=2, **options,
  )  # fmt: skip
  return out, logits, context(5, [2])


def check_frequencies(tokens, p):
  counts = np.bincount(tokens, minlength=len(p))
  assert (counts[p == 0] == 0).all()
  counts, expected = counts[p > 0], p[p > 0] * len(tokens)
  common = expected > 5
  chi2 = ((counts - expected) ** 2 / expected)[common].sum()
  assert chi2 < 30  # at 6 degrees of freedom: one in 25,000 keys
  assert common.sum() >= 2


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature):
  out, logits, h = draw(dict(temperature=temperature))
  softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()
  check_frequencies(out.tokens[:, 0], softmax(logits[h] / temperature))
  first = np.bincount(out.tokens[:, 0]).argmax()
  second = out.tokens[out.tokens[:, 0] == first, 1]
  h = context(5, [2, first])
  check_frequencies(second, softmax(logits[h] / temperature))
  want = [sum(log_p(logits, 5, [2], y)) for y in out.tokens[:20]]
  np.testing.assert_allclose(out.scores[:20], want, rtol=1e-5)


@pytest.mark.parametrize(
  'options', [dict(top_k=3), dict(top_p=0.7), dict(top_k=4, top_p=0.8)]
)
def test_frequencies_of_what_is_kept(options):
  out, logits, h = draw(dict(temperature=1.5, **options))
  p = np.exp(logits[h] / 1.5)
  order = np.argsort(-p)
  p[order[options.get('top_k', 7) :]] = 0
  p /= p.sum()
  kept = np.searchsorted(np.cumsum(p[order]), options.get('top_p', 1)) + 1
  p[order[kept:]] = 0
  assert 1 < (p > 0).sum() < 7
  check_frequencies(out.tokens[:, 0], p / p.sum())


def test_one_key_is_none_for_each_row():
  args = toy(table()), toy_cache(MEMORY), PROMPT, jax.random.key(0)
  with pytest.raises(ValueError, match=r'keys must be .* \[3\], .* got \[\]'):
    decoding.sample(*args, eos=EOS, pad=PAD, max_length=3)


def test_another_key_another_sample():
  call = jitted(decoding.sample, toy(table()), eos=-1, max_length=9)
  first, again, other = (
    call(toy_cache(MEMORY), PROMPT, row_keys(i, len(PROMPT))).tokens
    for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any(axis=1).all()


# The cache of attention -------------------------------------------------------


class Translator(nn.Module):
  """Embedding, self-attention, cross attention, logits: the least there is."""

  variant: str
  decode: bool = False

  def setup(self):
    fields = dict(num_heads=3, decode=self.decode)
    self.own = attention.build(self.variant, **fields)
    self.cross = attention.build(self.variant, **fields)
    self.embed = nn.Embed(11, 12)
    self.logits = nn.Dense(11, kernel_init=nn.initializers.normal(3.0))

  def __call__(self, tokens, memory):
    x = self.embed(tokens)
    x = x + self.own(x, mask=attention.Mask(causal=True))
    return self.logits(x + self.cross(x, memory))

  def fill(self, memory):
    self.cross.prefill_memory(memory)

  def step(self, tokens, lengths=None):
    x = self.embed(tokens)
    x = x + self.own(x, lengths=lengths)
    return self.logits(x + self.cross(x))


def test_hypotheses_score_as_the_full_pass_scores_them():
  B, N, L = 3, 5, 7
  memory = jax.random.normal(jax.random.key(0), (B, 4, 12))
  prompt = np.array([[2, 3], [4, 0], [5, 6]], np.int32)
  n = np.array([2, 1, 2])
  model = Translator('mhe_add')
  params = jax.jit(model.init)(jax.random.key(1), prompt, memory)['params']
  decoder = Translator('mhe_add', decode=True)
  shape = jnp.zeros((B, 2 + L), jnp.int32)
  cache = jax.jit(decoder.init)(jax.random.key(1), shape, memory)['cache']
  _, filled = decoder.apply(
    dict(params=params, cache=cache), memory, method='fill', mutable=['cache']
  )
  untouched = []

  def step(tokens, cache, lengths=None):
    logits, new = decoder.apply(
      dict(params=params, cache=cache),
      tokens,
      lengths,
      method='step',
      mutable=['cache'],
    )
    same = jax.tree.map(lambda x, y: x is y, new['cache'], cache)
    untouched.append((all(jax.tree.leaves(same['cross'])), same['own']))
    return logits, new['cache']

  out = run(
    beam_search.beam, step, filled['cache'], prompt,
    max_length=L, size=N, prompt_lengths=n,
  )  # fmt: skip
  # The memory is not reordered at each step, the keys of the past are.
  assert all(same for same, _ in untouched)
  assert not any(any(jax.tree.leaves(own)) for _, own in untouched)
  # Each hypothesis after its prompt, padded, in one pass without a cache.
  texts = [
    [*prompt[b, : n[b]], *out.tokens[b, i]] for b in range(B) for i in range(N)
  ]
  texts = np.array([padded(y, 2 + L) for y in texts])
  logits = jax.jit(model.apply)(
    dict(params=params), texts, jnp.repeat(memory, N, axis=0)
  )
  p = np.asarray(jax.nn.log_softmax(logits)).reshape(B, N, 2 + L, -1)
  for b, i in itertools.product(range(B), range(N)):
    y = out.tokens[b, i].tolist()
    y = y[: y.index(EOS) + 1] if EOS in y else y
    gained = p[b, i, np.arange(len(y)) + n[b] - 1, y]
    want = gained.sum() / ((5 + len(y)) / 6) ** 0.6
    np.testing.assert_allclose(out.scores[b, i], want, rtol=1e-4)
