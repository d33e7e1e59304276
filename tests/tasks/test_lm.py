# SPDX-License-Identifier: Apache-2.0
"""Language modelling: each token counts once, whatever the windows."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from collab import tasks
from collab.tasks import lm
from configs import lm as config
from tests import tiny


@given(
  n=st.integers(1, 97),
  L=st.integers(1, 23),
  part=st.floats(0, 1),
  size=st.integers(1, 7),
)
@settings(deadline=None)
def test_windows_have_each_token_once(n, L, part, size):
  """Each token once, as a label, with what stands before it as its input."""
  stride, tokens = max(1, round(part * L)), 3 + np.arange(n)
  found = np.zeros(n, int)
  number, make = lm.strided(tokens, L, stride, bos=1)
  made = tasks.Pass.over(None, range(number), size, make)
  for batch in map(made.batch, range(made.batches)):
    assert batch['tokens'].shape == (size, L)
    counts = (batch['weights'] > 0) & (batch['place'] >= 0)[:, None]
    labels, before = batch['labels'][counts], batch['tokens'][counts]
    np.add.at(found, labels - 3, 1)
    np.testing.assert_array_equal(before, np.where(labels == 3, 1, labels - 1))
    context = np.broadcast_to(np.arange(L), counts.shape)[counts]
    assert (context >= np.minimum(L - stride, labels - 3)).all()
  np.testing.assert_array_equal(found, 1)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp('text')
  rng = np.random.default_rng(0)
  words = tiny.WORDS['en'].split()
  for split, n in dict(train=300, valid=17, test=13).items():
    rows = [rng.choice(words, rng.integers(0, 7)) for _ in range(n)]
    tiny.write_lines(folder / f'wiki.{split}.raw', map(' '.join, rows))
  return folder


def build(corpus, workdir, shard=(0, 1), seed=0, documents='', **changes):
  data = config.get_config('sample').data
  data.update(path=str(corpus), vocab_size=300, row_length=11, batch_size=6)
  data.update(dict(eval_stride=5) | changes)
  how = dict(workdir=str(workdir), seed=seed, shard=shard)
  return lm.build(data, documents=documents, **how)


class Uniform:
  """All tokens are as likely, whatever came before."""

  def output_table(self, params):
    return params['embed']['embedding'], None

  def apply(self, variables, batch, method, rngs=None):
    assert method == 'features'
    return jnp.zeros((*batch['tokens'].shape, 2))


@pytest.mark.parametrize('kind', ['bpe', 'words'])
def test_uniform_model(kind, corpus, tmp_path):
  """Perplexity of a word is V^(tokens / words), with the line ends as words."""
  task = build(corpus, tmp_path, kind=kind)
  V = task.model_kwargs['vocab_size']
  params = dict(embed=dict(embedding=jnp.zeros((V, 2))))
  for split, name in dict(val='valid', test='test').items():
    lines = (corpus / f'wiki.{name}.raw').read_text().split('\n')[:-1]
    words = sum(len(line.split()) + 1 for line in lines)
    scores, examples = tiny.evaluate(task, Uniform(), params, split)
    tokens = len(task._streams[split].tokens)
    parts = examples
    assert len(parts['nll']) == len(parts['tokens']) > 1
    assert sum(parts['tokens']) == tokens
    assert sum(parts['nll']) / tokens == pytest.approx(scores['nll'])
    assert scores['words'] == words
    assert scores['nll'] == pytest.approx(np.log(V), rel=1e-5)
    assert scores['perplexity'] == pytest.approx(V ** (tokens / words), 1e-4)
    assert (tokens == words) == (kind == 'words')


def test_batches(corpus, tmp_path):
  task = build(corpus, tmp_path)
  tokens = np.asarray(task._streams['train'].tokens)
  starts = set()
  for step in range(40):
    batch = task.batch(step)
    np.testing.assert_array_equal(
      batch['tokens'][:, 1:], batch['labels'][:, :-1]
    )
    for row in batch['labels']:
      places = np.lib.stride_tricks.sliding_window_view(tokens, 11)
      hits = np.flatnonzero((places == row).all(1))
      assert hits.size
      starts.update(hits)
  assert len(starts) > len(tokens) / 11
  again = build(corpus, tmp_path)
  np.testing.assert_array_equal(
    again.batch(7)['tokens'], task.batch(7)['tokens']
  )
  other = build(corpus, tmp_path, seed=1).batch(7)['tokens']
  assert (other != task.batch(7)['tokens']).any()


def test_hosts_share_a_batch(corpus, tmp_path):
  whole = build(corpus, tmp_path).batch(3)['labels']
  parts = [build(corpus, tmp_path, (i, 3)).batch(3)['labels'] for i in range(3)]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_documents_of_rows():
  """An <eos> begins a document, or the second of two; positions restart."""
  tokens = np.array([[1, 5, 2, 6, 2, 2, 7], [2, 2, 2, 5, 6, 2, 7]])
  starts = dict(
    line=[[0, 0, 2, 2, 4, 5, 5], [0, 1, 2, 2, 2, 5, 5]],
    paragraph=[[0, 0, 0, 0, 0, 5, 5], [0, 1, 2, 2, 2, 2, 2]],
  )
  for documents, want in starts.items():
    found = lm.packed(tokens, 2, documents)
    np.testing.assert_array_equal(found['segments'], want)
    np.testing.assert_array_equal(found['positions'], np.arange(7)[None] - want)


def test_rows_have_their_documents(corpus, tmp_path):
  """Both those of training and those of an evaluation."""
  task = build(corpus, tmp_path, documents='line')
  plain = build(corpus, tmp_path).batch(3)
  rows = task.passes(None, 'test')['windows'].batch(0)
  eos = task._tokenizer.eos_id
  for batch in task.batch(3), rows:
    want = lm.packed(batch['tokens'], eos, 'line')
    assert want['segments'].max() > 0
    for name, x in want.items():
      np.testing.assert_array_equal(batch[name], x)
  np.testing.assert_array_equal(task.batch(3)['labels'], plain['labels'])
  assert plain.keys() == {'tokens', 'labels'}
  with pytest.raises(ValueError, match=r"task\.documents='page'; expected one"):
    build(corpus, tmp_path, documents='page')


@pytest.mark.parametrize('stride', [0, 12])
def test_stride_error(stride, corpus, tmp_path):
  words = f'data.eval_stride={stride}; expected 1 to data.row_length=11'
  with pytest.raises(ValueError, match=words):
    build(corpus, tmp_path, eval_stride=stride)


class NotFinite(Uniform):
  """Uniform, but for one feature of the first row."""

  def __init__(self, wrong):
    self.wrong = wrong

  def apply(self, variables, batch, method, rngs=None):
    return super().apply(variables, batch, method).at[0, 3].set(self.wrong)


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_score(wrong, corpus, tmp_path):
  task = build(corpus, tmp_path)
  V = task.model_kwargs['vocab_size']
  params = dict(embed=dict(embedding=jnp.zeros((V, 2))))
  good, examples = tiny.evaluate(task, Uniform(), params, 'test')
  for split in ('val', 'test'):
    scores, examples = tiny.evaluate(task, NotFinite(wrong), params, split)
    for name in ('perplexity', 'nll', 'bits_per_character'):
      assert np.isnan(scores.pop(name))
    assert examples == {}
  assert scores.items() <= good.items()  # words, and the unigram's


def test_the_summary_names_what_is_beside_the_text(corpus, tmp_path):
  task = build(corpus, tmp_path / 'run')
  assert 'beside it, not read' not in task.describe()
  task._source = task._source._replace(not_read=('more/', 'notes.md'))
  assert task.describe()['beside it, not read'] == 'more/, notes.md'
