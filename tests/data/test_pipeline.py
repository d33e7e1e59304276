# SPDX-License-Identifier: Apache-2.0
"""Batches hold the pairs they should, whoever asks, and whenever."""

import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.data import cache, pipeline
from collab.data.tokenizer import BOS, EOS

L = 17
FIELDS = (
  'source',
  'target_inputs',
  'labels',
  'source_segments',
  'target_segments',
  'source_positions',
  'target_positions',
  'weights',
)


def side(sentences):
  offsets = np.cumsum([0, *map(len, sentences)], dtype=np.int64)
  flat = [token for sentence in sentences for token in sentence]
  return cache.Side(np.array(flat, np.uint16), offsets)


def pairs_of(*pairs):
  """Tokenized from pairs of lists of ids."""
  return cache.Tokenized(*(side([p[i] for p in pairs]) for i in (0, 1)), {})


def numbered(count, seed=0):
  """Pairs that all differ: their first source token is their number."""
  rng = np.random.default_rng(seed)
  return pairs_of(
    *(
      (
        [100 + i, *rng.integers(4, 99, rng.integers(0, L - 2))],
        list(rng.integers(4, 99, rng.integers(1, L - 1))),
      )
      for i in range(count)
    )
  )


def unpack(batch):
  """The pairs of a batch: (source, target) tuples; checks its structure."""
  found = []
  assert batch.keys() - {'place'} == set(FIELDS)
  for key in FIELDS:
    assert batch[key].dtype == (np.float32 if key == 'weights' else np.int32)
    assert batch[key].flags.c_contiguous
  for row in range(len(batch['source'])):
    source, target, labels, sseg, tseg, spos, tpos, weights = (
      batch[key][row] for key in FIELDS
    )
    last = sseg.max()
    assert last == tseg.max()
    for segments, others in [
      (sseg, (source, spos)),
      (tseg, (target, labels, tpos, weights)),
    ]:
      # 1 1 1 2 2 3 ... 0 0: ascending without gaps, then padding of zeros.
      used = (segments > 0).sum()
      assert (segments[:used] > 0).all()
      assert set(np.diff(segments[:used])) <= {0, 1}
      assert not used or segments[0] == 1
      assert not any(x[used:].any() for x in others)
    np.testing.assert_array_equal(weights, tseg > 0)
    for k in range(1, last + 1):
      s, t, y = source[sseg == k], target[tseg == k], labels[tseg == k]
      assert s[-1] == EOS == y[-1]
      assert t[0] == BOS
      np.testing.assert_array_equal(t[1:], y[:-1])
      np.testing.assert_array_equal(spos[sseg == k], np.arange(len(s)))
      np.testing.assert_array_equal(tpos[tseg == k], np.arange(len(t)))
      found.append((tuple(s[:-1].tolist()), tuple(y[:-1].tolist())))
  return found


def expected(tokenized):
  """All pairs, as `unpack` gives them, cut to fit a row."""
  return [
    tuple(
      tuple(s.tokens[s.offsets[i] : s.offsets[i + 1]][: L - 1].tolist())
      for s in (tokenized.source, tokenized.target)
    )
    for i in range(len(tokenized))
  ]


def equal(a, b):
  return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


@settings(max_examples=25, deadline=None)
@given(
  count=st.integers(11, 80),
  batch_size=st.sampled_from([1, 2, 5]),
  seed=st.integers(0, 99),
)
def test_an_epoch_has_every_pair_once(count, batch_size, seed):
  tokenized = numbered(count, seed)
  data = pipeline.PackedPairs(tokenized, L, batch_size, seed)
  everything = expected(tokenized)
  for epoch in (0, 3):
    first = epoch * data.steps_per_epoch
    steps = range(first, first + data.steps_per_epoch)
    found = [pair for step in steps for pair in unpack(data.batch(step))]
    assert len(set(found)) == len(found)
    assert set(found) <= set(everything)
    if not data.statistics['rows_left_out_per_epoch']:
      assert sorted(found) == sorted(everything)
  left_out = data.statistics['rows_left_out_per_epoch']
  assert left_out == data.rows % batch_size < batch_size


def test_epochs_differ_and_steps_are_pure():
  tokenized = numbered(97)
  data = pipeline.PackedPairs(tokenized, L, 3, seed=7)
  forwards = [data.batch(step) for step in range(3 * data.steps_per_epoch)]
  again = pipeline.PackedPairs(tokenized, L, 3, seed=7)
  for step in reversed(range(len(forwards))):
    assert equal(forwards[step], again.batch(step))
  assert not equal(forwards[0], forwards[data.steps_per_epoch])
  other = pipeline.PackedPairs(tokenized, L, 3, seed=8)
  assert not equal(forwards[0], other.batch(0))


@pytest.mark.parametrize('hosts', [1, 2, 3, 6])
def test_hosts_share_one_global_batch(hosts):
  tokenized = numbered(131)
  whole = pipeline.PackedPairs(tokenized, L, 6, seed=1)
  parts = [
    pipeline.PackedPairs(tokenized, L, 6, seed=1, shard=(host, hosts))
    for host in range(hosts)
  ]
  for step in (0, 1, whole.steps_per_epoch + 2):
    slices = [part.batch(step) for part in parts]
    joined = {k: np.concatenate([s[k] for s in slices]) for k in slices[0]}
    assert equal(joined, whole.batch(step))


def test_too_long():
  long, short = [9] * (L + 3), [8] * 5
  tokenized = pairs_of((long, short), (short, short), (short, [9] * L))
  fits = ((8,) * 5, (8,) * 5)
  drop = pipeline.PackedPairs(tokenized, L, 1, too_long='drop')
  assert unpack(drop.batch(0)) == [fits]
  assert drop.statistics['too_long'] == 2
  assert drop.statistics['packed'] == 1
  cut = pipeline.PackedPairs(tokenized, L, 3, too_long='truncate')
  assert sorted(unpack(cut.batch(0))) == sorted(expected(tokenized))
  assert cut.statistics['too_long'] == 2
  assert cut.statistics['too_long_policy'] == 'truncate'


def test_padding_is_what_is_there():
  data = pipeline.PackedPairs(numbered(89), L, 1)
  batches = [data.batch(step) for step in range(data.steps_per_epoch)]
  for name in ('source', 'target'):
    empty = np.mean([(b[f'{name}_segments'] == 0).mean() for b in batches])
    assert data.statistics[f'{name}_padding'] == pytest.approx(empty)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(batch_size=1000), r'11 pairs fill \d+ rows of 17.*batch has 1000'),
    (dict(batch_size=0), r'data\.batch_size=0'),
    (
      dict(batch_size=5, shard=(0, 2)),
      r'data\.batch_size=5; .* multiple of the 2',
    ),
    (dict(row_length=1), r'data\.row_length=1; .* 2'),
    (dict(too_long='cut'), "too_long='cut'; there are drop, truncate"),
  ],
)
def test_impossible_arguments(arguments, message):
  arguments = dict(row_length=L, batch_size=2) | arguments
  with pytest.raises(ValueError, match=message):
    pipeline.PackedPairs(numbered(11), **arguments)


@pytest.mark.parametrize('count', [1, 4, 5, 8])
def test_eval_batch_has_a_pair_a_row(count):
  tokenized = numbered(count) if count > 1 else pairs_of(([], [9] * L))
  batch = pipeline.eval_batch(tokenized, L, np.arange(count))
  assert batch['source'].shape == (count, L)
  assert (batch['source_segments'].max(1) == 1).all()
  assert unpack(batch) == expected(tokenized)
  again = pipeline.eval_batch(tokenized, L, np.arange(count)[::-1])
  assert unpack(again) == expected(tokenized)[::-1]


def test_stream_is_in_order_ahead_and_ends():
  made = []

  def batch(step):
    made.append(step)
    return {'step': np.array(step)}

  threads = threading.active_count()
  assert [int(b['step']) for b in pipeline.stream(batch, 5, 40)] == [
    *range(5, 40)
  ]
  assert list(pipeline.stream(batch, 3, 3)) == []
  made.clear()
  ahead = pipeline.stream(batch, 0, 10**9, ahead=3)
  assert next(ahead)['step'] == 0
  wait(lambda: made == [0, 1, 2, 3])
  ahead.close()
  wait(lambda: threading.active_count() == threads)


def test_stream_passes_errors_on():
  def batch(step):
    if step == 2:
      raise ValueError('step 2 is bad')
    return step

  batches = pipeline.stream(batch, 0, 5)
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(ValueError, match='step 2 is bad'):
    next(batches)


def wait(condition):
  end = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)
