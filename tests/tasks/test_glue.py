# SPDX-License-Identifier: Apache-2.0
"""Classification on the samples and on published files, with tiny models."""

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from collab import models
from collab.data.samples import classification
from collab.metrics import labels
from collab.tasks import glue
from tests import tiny
from tests.data.test_glue_files import write

DATA = dict(
  corpus='sample',
  path='',
  malformed='fatal',
  vocab_size=400,
  vocabulary='',
  row_length=23,
  batch_size=6,
)
MODEL = dict(
  dim=12,
  num_layers=1,
  mlp_dim=20,
  norm='pre',
  dropout=0.0,
  attention_dropout=0.0,
  max_length=64,
  attention=dict(name='mha', num_heads=2),
)


@pytest.fixture(autouse=True)
def few(monkeypatch):
  monkeypatch.setattr(classification, 'DRAWS', dict(train=61, val=17, test=13))


def task(subtask, folder, build=glue.build, shard=(0, 1), **data):
  return build(
    ConfigDict(DATA | data),
    workdir=str(folder),
    seed=0,
    shard=shard,
    subtask=subtask,
  )


class Fake:
  """A model whose outputs are of all real tokens, and of nothing else."""

  def __init__(self, outputs, head='classify'):
    self.outputs, self.head = outputs, head

  def apply(self, variables, batch, rngs=None):
    places = np.indices(batch['tokens'].shape)[-1]
    real = places < batch['lengths'][..., None]
    code = jnp.where(real, batch['tokens'] * (1 + batch['types']), 0).sum(-1)
    if self.head == 'choice':
      return jnp.sin(code)
    return jnp.sin(code[:, None] * (1.0 + jnp.arange(self.outputs))[None])


@pytest.fixture
def check_evaluation():
  """Evaluation by length, with padding, is that of one row after another."""

  def check(it):
    subtask, seen = it._subtask, []

    def metric(outputs, rows):
      seen.append((outputs, rows))
      return subtask.metric(outputs, rows)

    it._subtask = subtask._replace(metric=metric)
    fake = Fake(subtask.outputs, subtask.head)
    scores, examples = tiny.evaluate(it, fake, {}, 'val')
    (outputs, rows), _ = seen
    wanted = list(it._parts.readers['val']())
    assert rows == wanted
    assert examples['gold'] == [example.label for example in rows]
    ours = outputs if subtask.outputs == 1 else outputs.argmax(-1)
    assert examples['predicted'] == ours.ravel().tolist()
    encoded = it._encoded(wanted)
    for i, output in enumerate(outputs):
      at = np.atleast_1d(it._indices(np.array([i]))[0])
      lists = [
        encoded.tokens[encoded.offsets[j] : encoded.offsets[j + 1]] for j in at
      ]
      codes = [
        (x * (1 + (np.arange(len(x)) >= encoded.second[j]))).sum()
        for x, j in zip(lists, at, strict=True)
      ]
      factors = 1 if subtask.head == 'choice' else 1 + np.arange(len(output))
      np.testing.assert_allclose(
        output, np.sin(np.array(codes) * factors), atol=1e-4
      )
    assert {'score', 'majority_score'} <= set(scores)

  return check


@pytest.mark.parametrize('subtask', glue.GLUE.subtasks)
def test_samples(subtask, tmp_path, check_evaluation):
  it = task(subtask, tmp_path)
  batch = it.batch(3)
  outputs = it.model_kwargs['outputs']
  assert batch['tokens'].shape == batch['types'].shape == (6, 23)
  assert it.units_per_step == 6
  if subtask == 'stsb':
    assert batch['labels'].dtype == np.float32
  else:
    assert set(batch['labels']) <= set(range(outputs))
  assert {k: v.shape for k, v in it.batch(10**6).items()} == {
    k: v.shape for k, v in batch.items()
  }
  check_evaluation(it)
  assert it.describe()['examples in test'] == 13


def test_what_a_batch_is(tmp_path):
  """A function of the step; the hosts' slices are the global batch."""
  whole, again = task('mnli', tmp_path), task('mnli', tmp_path)
  halves = [task('mnli', tmp_path, shard=(i, 2)) for i in range(2)]
  for step in (0, 11):
    batch = whole.batch(step)
    parts = [half.batch(step) for half in halves]
    for name, x in batch.items():
      np.testing.assert_array_equal(x, again.batch(step)[name])
      np.testing.assert_array_equal(
        x, np.concatenate([part[name] for part in parts])
      )


def trained(it, steps, lr=1e-2):
  """Losses and the parameters of a tiny encoder."""
  model = models.build('encoder', **MODEL, **it.model_kwargs)
  init = jax.jit(model.init)
  params = init(jax.random.key(0), it.batch(0))['params']
  tx = optax.adam(lr)

  @jax.jit
  def step(params, state, batch):
    def loss(params):
      total, weight, aux = it.loss(model, params, batch, {})
      return total / weight, aux

    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  state, losses = tx.init(params), []
  for i in range(steps):
    params, state, value = step(params, state, it.batch(i))
    losses.append(float(value))
  return losses, model, params


def test_it_learns(tmp_path):
  it = task('sst2', tmp_path)
  losses, model, params = trained(it, 60)
  assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
  scores, examples = tiny.evaluate(it, model, params, 'test')
  assert all(np.isfinite(x) for x in scores.values())


def test_loss_by_hand(tmp_path):
  for subtask in ('mnli', 'stsb'):
    it = task(subtask, tmp_path / subtask)
    batch, fake = it.batch(0), Fake(it.model_kwargs['outputs'])
    outputs = np.asarray(fake.apply({}, batch), np.float64)
    total, weight, aux = it.loss(fake, {}, batch, {})
    rows = range(6)
    if subtask == 'stsb':
      wanted = ((outputs[:, 0] - batch['labels']) ** 2).sum()
      assert aux == {}
    else:
      p = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
      wanted = -np.log(p[rows, batch['labels']]).sum()
      right = (outputs.argmax(-1) == batch['labels']).sum()
      assert float(aux['accuracy']) == right
    assert float(weight) == 6
    assert float(total) == pytest.approx(wanted, rel=1e-5)


def test_mnli_has_two_parts(tmp_path):
  files = write(tmp_path / 'glue')
  it = task('mnli', tmp_path, path=str(files), batch_size=1)
  scores, examples = tiny.evaluate(it, Fake(3), {}, 'test')
  assert scores == tiny.evaluate(it, Fake(3), {}, 'val')[0]
  assert set(scores) == {
    'score',
    'majority_score',
    'accuracy_m',
    'accuracy_mm',
  }
  assert scores['score'] == (scores['accuracy_m'] + scores['accuracy_mm']) / 2
  for part in ('m', 'mm'):
    gold, ours = (examples[f'{x}_{part}'] for x in ('gold', 'predicted'))
    assert np.mean(np.equal(gold, ours)) == scores[f'accuracy_{part}']
  shown = it.describe()
  assert shown['examples in dev_matched'] == 1
  assert shown['data'] == str(files)


def test_the_checksum_is_of_texts_and_labels(tmp_path):
  """Of all parts, so that hosts with different copies do not train."""
  files, found = write(tmp_path / 'glue'), []
  path = files / 'RTE' / 'dev.tsv'
  text = path.read_text()
  label = text.strip().rpartition('\t')[2]
  other = next(x for x in glue.GLUE.subtasks['rte'].classes if x != label)
  for _ in range(2):
    it = task('rte', tmp_path, path=str(files), batch_size=1)
    found.append(it.describe()['checksum'])
    path.write_text(text.strip().removesuffix(label) + other + '\n')
  assert found[0] != found[1]


def test_majority(tmp_path):
  """The commonest class of training; of regression the mean, so 0."""
  it = task('mnli', tmp_path / 'mnli')
  rows, _ = it._dev['val']
  gold = glue.gold(rows)
  counts = np.bincount(it._labels)
  wanted = labels.accuracy(gold, [counts.argmax()] * len(gold))
  assert tiny.evaluate(it, Fake(3), {}, 'val')[0]['majority_score'] == wanted
  it = task('stsb', tmp_path / 'stsb')
  assert tiny.evaluate(it, Fake(1), {}, 'val')[0]['majority_score'] == 0.0


def test_a_kept_tokenizer_is_used_again(tmp_path):
  first = task('mnli', tmp_path)
  kept = (tmp_path / 'tokenizer.json').read_bytes()
  other = task('mnli', tmp_path, vocab_size=300)
  assert other.model_kwargs == first.model_kwargs
  assert (tmp_path / 'tokenizer.json').read_bytes() == kept


def test_bad_input(tmp_path):
  with pytest.raises(
    ValueError, match=r"^task\.subtask='mnly'; there are mnli"
  ):
    task('mnly', tmp_path)
  files = write(tmp_path / 'glue')
  (files / 'RTE/dev.tsv').write_text('index\tsentence1\tsentence2\tlabel\n')
  build = functools.partial(task, 'rte', tmp_path, path=str(files))
  with pytest.raises(ValueError, match=r'dev.tsv has no examples'):
    build()
  with pytest.raises(ValueError, match=r'^data\.batch_size=6; expected a mul'):
    task('mnli', tmp_path, shard=(0, 4))
  with pytest.raises(ValueError, match=r'RTE has nothing; expected train.tsv'):
    build(path=str(tmp_path))


# Outputs that are not finite, labels that are none ----------------------------


class Wrong(Fake):
  """Fake, but for what it makes of rows of the longest width."""

  def __init__(self, it, wrong):
    super().__init__(it._subtask.outputs, it._subtask.head)
    self.wrong = wrong

  def apply(self, variables, batch, rngs=None):
    x = super().apply(variables, batch)
    # One output of one row: the others are what they are.
    return x.at[0, -1].set(self.wrong)


def check_not_finite(it, wrong):
  good, examples = tiny.evaluate(
    it, Fake(it._subtask.outputs, it._subtask.head), {}, 'test'
  )
  assert all(np.isfinite(x) for x in good.values())
  assert examples
  scores, examples = tiny.evaluate(it, Wrong(it, wrong), {}, 'test')
  assert scores.keys() == good.keys()
  majority = {k: x for k, x in scores.items() if k.startswith('majority')}
  assert majority.items() <= good.items()
  assert all(np.isnan(scores[name]) for name in scores.keys() - majority.keys())
  assert examples == {}


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('subtask', glue.GLUE.subtasks)
def test_outputs_that_are_not_finite_have_no_score(subtask, wrong, tmp_path):
  """Though the first class, which argmax makes of NaN, may be the right one."""
  check_not_finite(task(subtask, tmp_path), wrong)


def test_one_part_that_is_not_finite_has_no_score(tmp_path):
  """Nor has the mean over the parts, nor the other part."""
  files = write(tmp_path / 'glue')
  it = task('mnli', tmp_path, path=str(files), batch_size=1)
  _, matched = it._dev['dev_matched']

  class NotFinite(Fake):
    def apply(self, variables, batch, rngs=None):
      wrong = (batch['tokens'] == matched.tokens[-1]).any(-1)[:, None]
      return jnp.where(wrong, jnp.nan, super().apply(variables, batch))

  scores, examples = tiny.evaluate(it, NotFinite(3), {}, 'test')
  assert np.isfinite(scores.pop('majority_score'))
  assert set(scores) == {'accuracy_m', 'accuracy_mm', 'score'}
  assert np.isnan(list(scores.values())).all()
  assert examples == {}


@pytest.mark.parametrize(
  'subtask, label, legal',
  [('sst2', -1, '0 to 1'), ('mnli', 3, '0 to 2'), ('stsb', -1.0, '0 to 5')],
)
@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_labels_out_of_range(
  subtask, label, legal, part, tmp_path, monkeypatch
):
  """As TFDS has -1 where a label is hidden: refused before the first step."""
  sample = glue.sample

  def with_one(*args):
    found, parts = sample(*args)
    rows = list(parts.readers[part]())
    rows[3] = rows[3]._replace(label=label)
    readers = parts.readers | {part: lambda: iter(rows)}
    return found, parts._replace(readers=readers)

  task(subtask, tmp_path).check(None)
  monkeypatch.setattr(glue, 'sample', with_one)
  words = f"example 4 of '{part}' has the label {label}, expected {legal}"
  with pytest.raises(ValueError, match=words):
    task(subtask, tmp_path).check(None)


@pytest.mark.parametrize('part', ['val', 'test'])
def test_a_part_without_examples(part, tmp_path, monkeypatch):
  sample = glue.sample

  def without(*args):
    found, parts = sample(*args)
    readers = parts.readers | {part: lambda: iter(())}
    return found, parts._replace(readers=readers)

  monkeypatch.setattr(glue, 'sample', without)
  with pytest.raises(ValueError, match=f"sample: '{part}' has no examples"):
    task('sst2', tmp_path).check(None)
