# SPDX-License-Identifier: Apache-2.0
"""The translation task on a tiny corpus: losses, scores, translations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import beam_search, decoding, models, tasks
from collab.data.tokenizer import BOS, EOS
from collab.inference.run import Run
from collab.metrics import bleu
from collab.tasks import wmt14
from collab.training import evaluation, sharding
from tests import tiny


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return tiny.write_corpus(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('workdir')


def build(config, workdir):
  return tasks.build(
    **config.task,
    data=config.data,
    workdir=str(workdir),
    seed=config.seed,
    shard=(0, 1),
  )


@pytest.fixture(scope='module')
def trained(corpus, workdir):
  """A task, its model, and parameters far from their initial values."""
  config = tiny.config(corpus)
  config.model.output_bias = True  # which loss and translation must not forget
  task = build(config, workdir)
  model = models.build(**config.model.to_dict(), **task.model_kwargs)
  params = jax.jit(model.init)(jax.random.key(0), task.batch(0))['params']
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(1)
  return (
    task,
    model,
    tree.unflatten(
      [x + rng.normal(size=x.shape).astype(np.float32) * 0.3 for x in leaves]
    ),
  )


def tokens_of(task, split):
  """(source, target) token ids of each pair, <eos> included."""
  return [
    [[*task.tokenizer.encode(text), EOS] for text in pair]
    for pair in task.corpus.pairs(split)
  ]


def test_no_such_task(corpus, workdir):
  with pytest.raises(ValueError, match=r"task.name='wmt15'; there are .*wmt14"):
    build(tiny.config(corpus, task__name='wmt15'), workdir)


def test_units_per_step(trained):
  task, *_ = trained
  mean = np.mean(
    [
      task.batch(i)['weights'].sum()
      for i in range(5 * task.describe()['steps_per_epoch'])
    ]
  )
  assert task.units_per_step == pytest.approx(mean, rel=0.05)
  pairs = tokens_of(task, 'train')
  every = sum(len(y) for x, y in pairs if max(len(x), len(y)) <= 24)
  rows = task.describe()['rows']
  assert task.units_per_step == round(8 * every / rows)


def test_loss_is_a_sum_and_its_weight(trained):
  """-(1-e) log p(y) - e mean_v log p(v), summed over target tokens."""
  task, model, params = trained
  uneven = lambda batch: (
    batch['weights'][:4].sum() != batch['weights'][4:].sum()
  )
  batch = next(filter(uneven, map(task.batch, range(9))))
  loss = jax.jit(lambda p, b: task.loss(model, p, b, {}))
  total, weight, aux = loss(params, batch)
  logits = model.apply({'params': params}, batch)
  log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
  real = batch['target_segments'] > 0
  np.testing.assert_array_equal(batch['weights'] > 0, real)
  nll = -np.take_along_axis(log_p, batch['labels'][..., None], -1)[..., 0]
  smoothed = 0.9 * nll - 0.1 * log_p.mean(-1)
  assert weight == real.sum() > 50
  np.testing.assert_allclose(total, smoothed[real].sum(), rtol=1e-5)
  np.testing.assert_allclose(aux['nll'], nll[real].sum(), rtol=1e-5)
  right = (np.argmax(logits, -1) == batch['labels'])[real].sum()
  assert aux['accuracy'] == right
  # Halves add up, whatever their weights: accumulation is exact.
  halves = [
    loss(params, jax.tree.map(lambda x, i=i: x[i : i + 4], batch))
    for i in (0, 4)
  ]
  added = jax.tree.map(jnp.add, *halves)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    added,
    (total, weight, aux),
  )


def test_dropout_only_with_a_key(trained):
  task, model, params = trained
  batch = task.batch(0)
  loss = jax.jit(lambda rngs: task.loss(model, params, batch, rngs)[0])
  assert loss({}) == loss({})
  keys = [{'dropout': jax.random.key(i)} for i in range(2)]
  assert len({float(loss(rngs)) for rngs in (*keys, {})}) == 3


def test_evaluate_is_the_mean_over_tokens(trained, corpus, workdir):
  """Each pair counts once, by its tokens; batches and padding do not count."""
  task, model, params = trained
  scores, examples = tiny.evaluate(task, model, params, 'val')
  assert set(scores) == {'nll', 'perplexity', 'accuracy'}
  logits_of = jax.jit(lambda batch: model.apply({'params': params}, batch))
  nll, right, count = 0.0, 0, 0
  pairs = tokens_of(task, 'val')
  assert len(pairs) == 11
  for source, target in pairs:
    batch = {}
    for side, key, ids in (
      ('source', 'source', source),
      ('target', 'target_inputs', [BOS, *target[:-1]]),
    ):
      row = np.pad(ids, (0, 25 - len(ids)))[None].astype(np.int32)
      segments = (np.arange(25) < len(ids)).astype(np.int32)[None]
      batch |= {key: row, f'{side}_segments': segments}
      batch |= {f'{side}_positions': np.arange(25)[None]}
    logits = logits_of(batch)[0, : len(target)]
    log_p = jax.nn.log_softmax(logits)
    nll -= float(log_p[np.arange(len(target)), np.array(target)].sum())
    right += int((logits.argmax(-1) == np.array(target)).sum())
    count += len(target)
  assert scores['nll'] == pytest.approx(nll / count, rel=1e-4)
  assert scores['perplexity'] == pytest.approx(np.exp(nll / count), rel=1e-3)
  assert scores['accuracy'] == pytest.approx(right / count)
  other = build(tiny.config(corpus, data__batch_size=5), workdir)
  again, examples = tiny.evaluate(other, model, params, 'val')
  for name, value in scores.items():
    assert again[name] == pytest.approx(value, rel=1e-5)


def test_evaluations_share_a_program(trained, monkeypatch):
  task, model, params = trained
  traced, score = [], task.score
  monkeypatch.setattr(task, 'score', lambda *x: traced.append(x) or score(*x))
  evaluate = evaluation.build(task, model, sharding.make_mesh())
  first = evaluate(params, 'val')
  times = len(traced)
  assert times > 0
  assert evaluate(params, 'val') == first
  assert len(traced) == times


def decoded(task, texts):
  """What decoding gives where it finds these texts."""
  rows = [[*task.tokenizer.encode(text), EOS] for text in texts]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  return decoding.Decoded(tokens, np.zeros(len(rows)))


def test_scores_of_the_test(trained, monkeypatch, capsys):
  """BLEU and what it is compared with, of translations that are known."""
  task, model, params = trained
  source, target = zip(*task.corpus.pairs('test'), strict=True)
  asked, beam = [], beam_search.beam
  monkeypatch.setattr(
    beam_search, 'beam', lambda *x, **y: asked.append(y) or beam(*x, **y)
  )
  by_model, _ = tiny.evaluate(task, model, params, 'test')
  assert {(y['size'], y['alpha']) for y in asked} == {(2, 0.6)}
  capsys.readouterr()
  assert target[0] != 'null'
  scores, examples = task._text_scores(decoded(task, ['null', *target[1:]]))
  assert scores.keys() < by_model.keys()
  assert scores['exact'] == pytest.approx(6 / 7)
  expected = bleu.scores(['null', *target[1:]], list(target))
  assert 50 < scores['bleu'] == expected['score'] < 100
  counts = np.array(examples['bleu'])
  assert counts.shape == (7, 10)
  assert bleu.of_counts(counts.sum(0)) == scores['bleu']
  assert 'tok:13a' in scores['bleu_signature']
  assert by_model['bleu_of_copying'] < 5 < 50 < scores['chrf'] < 100
  assert {'nll', 'perplexity', 'accuracy'} < set(by_model)
  assert not [name for name in scores if name.startswith('bleu/')]
  shown = capsys.readouterr().out
  assert 'The first 7 of 7 translations' in shown
  for text in (*source, *target):
    assert text in shown


def test_scores_by_category(trained, tmp_path, monkeypatch):
  task, model, params = trained
  rows = [
    f'{x}\t{y}\t{"long" if " " in x else "short"}'
    for x, y in task.corpus.pairs('train')
  ]
  for split in ('train', 'val', 'test'):
    tiny.write_lines(tmp_path / f'{split}.tsv', rows[:60])
  task = build(tiny.config(tmp_path), tmp_path / 'run')
  references = [y for _, y in task.corpus.pairs('test')]
  scores, _ = task._text_scores(decoded(task, references))
  assert scores['bleu'] == pytest.approx(100)
  assert scores['bleu/long'] == pytest.approx(100)
  assert 'bleu/short' in scores


# Translations -----------------------------------------------------------------


def translate_by(task, model, params):
  run = Run(model, params, task.tokenizer)
  return functools.partial(run.translate, beam=2, alpha=0.6)


@pytest.fixture(scope='module')
def translate(trained):
  return translate_by(*trained)


def test_translations_keep_their_order(translate):
  """Whatever is decoded together, each sentence gets its own translation."""
  words = tiny.WORDS['en'].split()
  texts = [' '.join(words[i : i + 1 + i % 3]) for i in range(7)]
  found = translate(texts)
  assert len(set(found)) > 3
  order = [4, 0, 6, 2, 5, 1, 3]
  shuffled = translate([texts[i] for i in order])
  assert shuffled == [found[i] for i in order]
  assert translate(texts[2:3]) == found[2:3]


def test_nothing_to_translate(translate):
  assert translate([]) == []
  empty, one = translate(['', 'one'])
  assert empty == ''
  assert translate(['one']) == [one]


def test_beam_that_is_too_wide(translate):
  with pytest.raises(ValueError, match=r'beam=99999; expected 1 to \d+\.'):
    translate(['eins'], beam=99999)


def test_sentence_that_is_too_long(translate, trained):
  """The error in its place says what fits, and what it says fits does."""
  task, *_ = trained
  fits = '1' * 34  # each digit a token; a space before, <eos> after
  assert len(task.tokenizer.encode(fits)) == 35
  found = translate([fits, 'one', fits + '1', 'two'])
  assert [type(x) for x in found] == [str, str, ValueError, str]
  assert found[1::2] == translate(['one', 'two'])
  assert str(found[2]) == (
    '37 tokens; with max_length=64 the model translates at most 36'
  )
  (alone,) = translate([fits + '1'])
  assert isinstance(alone, ValueError)


def test_a_line_break_of_the_model_is_a_blank(trained, monkeypatch):
  task, *_ = trained
  ids = task.tokenizer.encode('one\ntwo\r\n three\r') + [EOS]

  def decode(self, model, params, batch):
    B = len(batch['tokens'])
    rows = jnp.tile(jnp.array(ids)[None], (B, 1))
    return decoding.Decoded(rows, jnp.zeros(B))

  monkeypatch.setattr(wmt14.BeamSearch, '__call__', decode)
  translate = translate_by(*trained)
  assert translate(['one', 'two']) == ['one two  three '] * 2


def test_outputs_that_are_not_finite_have_no_score(trained, capsys):
  """Neither perplexity nor BLEU; what needs no model has its own."""
  task, model, params = trained
  for wrong in (np.nan, np.inf):
    bad = jax.tree.map(lambda x, w=wrong: x.at[(0,) * x.ndim].set(w), params)
    scores, examples = tiny.evaluate(task, model, bad, 'test')
    assert scores.pop('bleu_signature')
    assert 0 <= scores.pop('bleu_of_copying') < 5
    assert {'nll', 'accuracy', 'bleu', 'chrf', 'exact'} < set(scores)
    assert all(np.isnan(x) for x in scores.values())
    assert examples == {}
    for x in translate_by(task, model, bad)(['one', 'two']):
      assert isinstance(x, FloatingPointError)
  assert 'nan' not in capsys.readouterr().out


# Before the first step --------------------------------------------------------


def test_test_sentence_that_is_too_long(trained, corpus, tmp_path):
  """Found by the check, for the evaluation would only after the training."""
  task, model, _ = trained
  task.check(model)
  for split in ('train', 'val', 'test'):
    for side in ('en', 'de'):
      path = tmp_path / f'{split}.{side}'
      path.write_text((corpus / path.name).read_text('utf-8'), 'utf-8')
  for split in ('val', 'test'):  # of val there is perplexity alone, which cuts
    lines = (corpus / f'{split}.en').read_text('utf-8').splitlines()
    lines[4] = '1' * 50
    tiny.write_lines(tmp_path / f'{split}.en', lines)
  task = build(tiny.config(tmp_path), tmp_path / 'run')
  with pytest.raises(
    ValueError,
    match=r"sentence 5 of 'test' has 52 tokens; with model.max_length=64 the "
    r'model translates at most 36, so 1 of 7 are too long\.',
  ):
    task.check(model)
  task.check(model.clone(max_length=88))
  assert wmt14.longest(model.clone(max_length=88)) == 52


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(task__beam=0), 'beam=0; expected 1 to '),
    (dict(task__beam=999), r'beam=999; expected 1 to \d+\.'),
    (dict(task__alpha=float('nan')), 'alpha=nan; expected 0 to 10'),
  ],
)
def test_impossible_beams(changes, message, trained, corpus, workdir):
  _, model, _ = trained
  with pytest.raises(ValueError, match=message):
    build(tiny.config(corpus, **changes), workdir).check(model)


def test_tokenizer_of_bleu_that_is_not_installed(corpus, workdir, monkeypatch):
  monkeypatch.setattr('sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab', None)
  with pytest.raises(ValueError, match=r"language 'ja': .*sacrebleu\[ja\]"):
    build(tiny.config(corpus, data__target='ja'), workdir)


def test_bleu_is_that_of_the_target_language(trained, tmp_path, monkeypatch):
  task, model, params = trained
  for split in ('train', 'val', 'test'):
    rows = list(task.corpus.pairs(split))
    tiny.write_lines(tmp_path / f'{split}.en', [x for x, _ in rows])
    tiny.write_lines(tmp_path / f'{split}.zh', [f'{y}很好' for _, y in rows])
  other = build(tiny.config(tmp_path, data__target='zh'), tmp_path / 'run')
  assert other.describe()['tokenizer of BLEU'] == 'zh'
  assert task.describe()['tokenizer of BLEU'] == '13a'
  references = [y for _, y in other.corpus.pairs('test')]
  found = [y.replace('好', '坏') for y in references]
  scores, examples = other._text_scores(decoded(other, found))
  assert scores['bleu'] == bleu.scores(found, references, 'zh')['score'] > 1
  assert '|tok:zh|' in scores['bleu_signature']
  counts = np.array(examples['bleu']).sum(0)
  assert bleu.of_counts(counts) == scores['bleu']
