# SPDX-License-Identifier: Apache-2.0
"""The span task on a tiny file: losses, spans, scores."""

import functools
import json
import types

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import models, tasks
from collab.data.tokenizer import BOS, EOS
from collab.metrics import spans
from collab.tasks import squad
from collab.training import evaluation, sharding
from configs import squad as base
from tests import tiny

SMALL = {
  'data.corpus': 'squad',
  'data.vocab_size': 300,
  'data.row_length': 17,
  'data.stride': 5,
  'data.question_length': 4,
  'data.batch_size': 6,
  'model.dim': 16,
  'model.mlp_dim': 32,
  'model.num_layers': 1,
  'model.max_length': 32,
  'model.dropout': 0.1,
  'model.attention.num_heads': 2,
}
WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')


def write(path, n, version, seed):
  """n questions; of v2.0 each third has no answer, of v1.1 each has two."""
  rng = np.random.default_rng(seed)
  paragraphs = []
  for i in range(n):
    words = [WORDS[j] for j in rng.integers(0, 9, rng.integers(2, 25))]
    last = len(' '.join([*words[:-1], '']))
    answers = [
      dict(text=words[0], answer_start=0),
      dict(text=words[-1], answer_start=last),
    ]
    if version == 'v2.0' and i % 3 == 0:
      answers = []
    qas = [dict(id=f'q{i}', question=f'{words[0]} ?', answers=answers)]
    paragraphs.append(dict(context=' '.join(words), qas=qas))
  path.write_text(json.dumps(dict(data=[dict(paragraphs=paragraphs)])))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  found = tmp_path_factory.mktemp('questions')
  for version in ('v1.1', 'v2.0'):
    write(found / f'train-{version}.json', 23, version, 0)
    write(found / f'dev-{version}.json', 11, version, 1)
  return found


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('workdir')


def config(folder, subtask='v1', **changes):
  c = base.get_config(f'{subtask},sample,mhe_mul')
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  c.update_from_flattened_dict(SMALL | {'data.path': str(folder)} | changes)
  return c.lock()


def build(config, workdir, shard=(0, 1)):
  return tasks.build(
    **config.task,
    data=config.data,
    workdir=str(workdir),
    seed=config.seed,
    shard=shard,
  )


# Version 2 has questions without an answer besides.
@pytest.fixture(
  scope='module', params=[pytest.param('v1', marks=pytest.mark.slow), 'v2']
)
def trained(request, folder, workdir):
  """A task, its model, and parameters far from their initial values."""
  c = config(folder, request.param)
  task = build(c, workdir)
  model = models.build(**c.model.to_dict(), **task.model_kwargs)
  params = jax.jit(model.init)(jax.random.key(0), task.batch(0))
  leaves, tree = jax.tree.flatten(params['params'])
  rng = np.random.default_rng(1)
  leaves = [x + rng.normal(size=x.shape).astype(np.float32) for x in leaves]
  return task, model, tree.unflatten(leaves)


def allowed(row):
  """<bos> and the paragraph's places of a row of a batch."""
  tokens = row['tokens'][: row['lengths']].tolist()
  second = tokens.index(EOS) + 1
  assert tokens[0] == BOS
  assert tokens[-1] == EOS
  return [0, *range(second, len(tokens) - 1)]


def rows_of(batch):
  n = len(batch['lengths'])
  return [{key: x[i] for key, x in batch.items()} for i in range(n)]


# Batches and loss -------------------------------------------------------------


def test_batches(trained):
  task, *_ = trained
  batch = task.batch(0)
  assert batch['tokens'].shape == batch['types'].shape == (6, 17)
  assert batch['spans'].shape == (6, 2)
  assert (task.unit, task.units_per_step) == ('examples', 6)
  for row in rows_of(batch):
    assert set(row['spans'].tolist()) <= set(allowed(row))
    assert row['spans'][0] <= row['spans'][1]
  again = task.batch(0)
  assert all((batch[key] == again[key]).all() for key in batch)
  assert (batch['tokens'] != task.batch(1)['tokens']).any()


def test_shards_are_parts_of_the_batch(folder, workdir):
  whole = build(config(folder), workdir).batch(3)
  parts = [build(config(folder), workdir, (i, 3)).batch(3) for i in range(3)]
  for key, x in whole.items():
    np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), x)
  with pytest.raises(ValueError, match='multiple of the 4 hosts'):
    build(config(folder), workdir, (0, 4))


def test_allowed_places(trained):
  task, *_ = trained
  batch = task.batch(1)
  mask = np.asarray(squad.allow(batch['types'], batch['lengths']))
  for row, places in zip(rows_of(batch), mask, strict=True):
    assert np.flatnonzero(places).tolist() == allowed(row)


def test_loss_is_a_sum_and_its_weight(trained):
  """Half of -log p of either end, of a softmax over <bos> and paragraph."""
  task, model, params = trained
  batch = task.batch(2)
  loss = jax.jit(lambda b: task.loss(model, params, b, {}))
  total, weight, aux = loss(batch)
  apply = jax.jit(lambda *inputs: model.apply({'params': params}, *inputs))
  logits = np.asarray(apply(batch))
  nll, right = 0.0, 0
  for row, x in zip(rows_of(batch), logits.astype(np.float64), strict=True):
    places = allowed(row)
    for side in (0, 1):
      norm = np.log(np.exp(x[places, side]).sum())
      nll += (norm - x[row['spans'][side], side]) / 2
    found = [places[x[places, side].argmax()] for side in (0, 1)]
    right += found == row['spans'].tolist()
  np.testing.assert_allclose(total, nll, rtol=1e-5)
  assert weight == 6
  assert aux['accuracy'] == right
  halves = [loss(jax.tree.map(lambda x, i=i: x[i::2], batch)) for i in (0, 1)]
  added = jax.tree.map(jnp.add, *halves)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    added,
    (total, weight, aux),
  )


def test_question_and_padding_have_no_gradient(trained):
  """Whatever the model says there, the loss is the same."""
  task, *_ = trained
  batch = task.batch(0)
  places = np.asarray(squad.allow(batch['types'], batch['lengths']))

  def total(logits):
    model = types.SimpleNamespace(apply=lambda *_, **__: logits)
    return task.loss(model, {}, batch, {})[0]

  logits = np.random.default_rng(0).normal(size=(6, 17, 2)).astype(np.float32)
  other = np.where(places[..., None], logits, 50.0).astype(np.float32)
  gradient = jax.grad(total)(logits)
  assert total(other) == total(logits)
  np.testing.assert_array_equal(gradient[~places], 0)
  assert (np.asarray(gradient)[places] != 0).any()


# Spans ------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=30)
def test_best_spans_by_force(seed, longest, ties):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(3, 7, 2)).astype(np.float32)
  if ties:
    logits = np.round(logits)
  forbidden = rng.random((3, 7)) < 0.4
  forbidden[:, [0, 4]] = False
  logits[forbidden] = squad.FORBIDDEN
  found = np.asarray(squad.best_spans(jnp.asarray(logits), longest))
  for x, (score, null, first, last) in zip(logits, found, strict=True):
    pairs = [(i, j) for i in range(1, 7) for j in range(i, min(i + longest, 7))]
    best = max(x[i, 0] + x[j, 1] for i, j in pairs)
    expected = next(p for p in pairs if x[p[0], 0] + x[p[1], 1] == best)
    assert (first, last) == expected
    assert score == best
    assert null == x[0].sum()


def test_answers_over_all_windows(trained):
  """The best span of any window; "no answer" where it is worst."""
  task, *_ = trained
  asked, cut = task.questions.read('val'), task._cut('val')
  rng = np.random.default_rng(5)
  N = len(cut.rows)
  assert len(asked) < N
  scores = rng.normal(size=(N, 2)).astype(np.float32)
  best = np.zeros((N, 4), np.float32)
  best[:, :2], best[:, 2:] = scores, cut.rows.second[:, None]
  texts, nulls = task.answers('val', best)
  assert len(texts) == len(nulls) == len(asked)
  for i, (text, null) in enumerate(zip(texts, nulls, strict=True)):
    mine = np.flatnonzero(cut.question == i)
    best = mine[scores[mine, 0].argmax()]
    first = cut.rows.second[best]
    assert text == cut.text(asked[i].context, best, first, first)
    least = scores[mine, 1].min()
    assert null == pytest.approx(least - scores[best, 0])


def tokens_of(cut, w):
  return cut.rows.tokens[cut.rows.offsets[w] : cut.rows.offsets[w + 1]].tolist()


# Scores -----------------------------------------------------------------------


def test_evaluate_asks_each_question_once(trained, folder, workdir):
  """One by one, in whole windows without padding, it is the same."""
  task, model, params = trained
  found, examples = tiny.evaluate(task, model, params, 'val')
  asked, cut = task.questions.read('val'), task._cut('val')
  apply = jax.jit(lambda batch: model.apply({'params': params}, batch))
  texts, nulls = [], []
  for i, q in enumerate(asked):
    best, null = (-np.inf, ''), np.inf
    for w in np.flatnonzero(cut.question == i):
      ids = np.array([tokens_of(cut, w)], np.int32)
      L, second = ids.shape[1], cut.rows.second[w]
      batch = dict(
        tokens=ids,
        types=(np.arange(L) >= second).astype(np.int32)[None],
        lengths=np.array([L], np.int32),
      )
      x = np.asarray(apply(batch))[0]
      null = min(null, x[0].sum())
      for a in range(second, L - 1):
        for b in range(a, L - 1):
          if x[a, 0] + x[b, 1] > best[0]:
            best = x[a, 0] + x[b, 1], cut.text(q.context, w, a, b)
    texts.append(best[1])
    nulls.append(null - best[0])
  answers = [q.answers for q in asked]
  if task._version == 'v1.1':
    assert found == pytest.approx(spans.scores(texts, answers))
  else:
    expected = spans.scores_or_none(texts, answers, nulls)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
  compute = evaluation.over_examples(model, sharding.make_mesh())
  best = compute(params, task.passes(model, 'val')['windows'])
  assert task.answers('val', best)[0] == texts


def test_scores_of_the_test(trained, capsys, monkeypatch):
  """Perfect answers have 100, and there are scores to compare with."""
  task, model, params = trained
  asked = task.questions.read('test')
  assert len(asked) == 11
  texts = [q.answers[-1] if q.answers else 'x' for q in asked]
  nulls = np.array([-1.0 if q.answers else 1.0 for q in asked])
  monkeypatch.setattr(task, 'answers', lambda *_: (texts, nulls))
  scores, examples = tiny.evaluate(task, model, params, 'test')
  assert scores['exact'] == scores['f1'] == 100
  assert examples == dict(exact=[1.0] * 11, f1=[1.0] * 11)
  ways = ['first_name', 'frequent']
  if task._version == 'v2.0':
    ways.append('no_answer')
    share = 100 * np.mean([not q.answers for q in asked])
    assert scores['exact_of_no_answer'] == pytest.approx(share)
    assert scores['f1_of_no_answer'] == pytest.approx(share)
    assert scores['best_exact'] == scores['no_answer_f1'] == 100
  assert {n for n in scores if '_of_' in n} == {
    f'{metric}_of_{way}' for metric in ('exact', 'f1') for way in ways
  }
  assert all(0 <= scores[n] <= 100 for n in scores if 'threshold' not in n)
  shown = capsys.readouterr().out
  assert 'The first 5 of 11 questions' in shown
  for q in asked[:5]:
    assert q.text in shown
  assert ('(none)' in shown) == (task._version == 'v2.0')


def test_describe(trained):
  task, *_ = trained
  told = task.describe()
  assert told['questions to train on'] == 23
  assert told['their windows'] > 23
  assert told['answers in no window'] == told['questions truncated'] == 0
  assert told['steps_per_epoch'] == told['their windows'] / 6


def test_answers_in_no_window_are_counted(tmp_path, workdir):
  words = ' '.join(WORDS * 5)
  answers = [dict(text=words, answer_start=0)]
  qas = [dict(id='q', question='all ?', answers=answers)]
  data = dict(data=[dict(paragraphs=[dict(context=words, qas=qas)])])
  for name in ('train.json', 'dev.json'):
    (tmp_path / name).write_text(json.dumps(data))
  task = build(config(tmp_path), workdir)
  assert task.describe()['answers in no window'] == 1
  assert not task.batch(0)['spans'].any()


def test_bad_input_shows_at_the_start(tmp_path, workdir, folder):
  (tmp_path / 'train.json').write_bytes(
    (folder / 'train-v1.1.json').read_bytes()
  )
  with pytest.raises(ValueError, match=r"no split 'val', only train\."):
    build(config(tmp_path), workdir)
  (tmp_path / 'dev.json').write_text('{"data": []}')
  with pytest.raises(ValueError, match="split 'val' has no questions"):
    build(config(tmp_path), workdir)
  with pytest.raises(ValueError, match=r"^data\.version='v3'; there are v1"):
    build(config(folder, data__version='v3'), workdir)
  with pytest.raises(ValueError, match='There is no data'):
    build(config('', data__corpus=''), workdir)
  with pytest.raises(ValueError, match=r'^task\.max_answer_length=0'):
    build(config(folder, task__max_answer_length=0), workdir)
  with pytest.raises(ValueError, match=r'^data\.stride=99'):
    build(config(folder, data__stride=99), workdir)


@pytest.mark.parametrize(
  'wrong', [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)]
)
def test_outputs_that_are_not_finite_have_no_score(trained, wrong, capsys):
  """Though the first span, which argmax makes of NaN, may be right."""
  task, model, params = trained
  good, examples = tiny.evaluate(task, model, params, 'test')
  assert all(np.isfinite(x) for x in good.values())
  assert examples

  class Wrong:
    def apply(self, variables, batch, rngs=None):
      x = model.apply(variables, batch, rngs=rngs)
      last = batch['lengths'] - 2  # an answer may end here
      return x.at[jnp.arange(1), last[:1]].set(wrong)

  for split in ('val', 'test'):
    scores, examples = tiny.evaluate(task, Wrong(), params, split)
    ours = [name for name in scores if '_of_' not in name]
    assert {'exact', 'f1'} <= set(ours)
    assert all(np.isnan(scores[name]) for name in ours)
    assert all(scores[x] == good[x] for x in scores.keys() - set(ours))
  assert scores.keys() == good.keys()
  assert examples == {}


def test_threshold_that_is_no_number(folder, workdir):
  c = config(folder, task__null_threshold=float('nan'))
  with pytest.raises(ValueError, match=r'^task\.null_threshold=nan'):
    build(c, workdir)


def test_windows_are_cut_before_the_first_step(folder, workdir):
  task = build(config(folder), workdir)
  task.check(None)
  assert task._cut.cache_info().currsize == 3
