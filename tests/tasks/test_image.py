# SPDX-License-Identifier: Apache-2.0
"""Batches follow (seed, step); every test image counts once."""

import types

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
from PIL import Image
import pytest

from collab import models
from collab.data.epochs import Epochs
from collab.tasks import image
from configs import vit
from tests import tiny
from tests.data.test_sources import refused

PLAIN = dict(
  crop='none',
  padding=0,
  flip=False,
  ops=0,
  magnitude=9.0,
  erasing=0.0,
  mixup=0.0,
  cutmix=0.0,
)
ARRAYS = PLAIN | dict(
  crop='padded', padding=1, flip=True, erasing=0.5, mixup=0.8, cutmix=1.0
)
PICTURES = ARRAYS | dict(crop='resized', padding=0, ops=2)
DATA = dict(
  corpus='sample',
  path='',
  held_out=3,
  damaged='error',
  image_size=8,
  batch_size=12,
  mean=(0.305,),
  std=(0.376,),
)


def task(augment=PLAIN, seed=0, shard=(0, 1), label_smoothing=0.1, **data):
  return image.build(
    ConfigDict(DATA | data | dict(augment=augment)),
    workdir='',
    seed=seed,
    shard=shard,
    label_smoothing=label_smoothing,
  )


def equal(a, b):
  return all(np.array_equal(a[key], b[key]) for key in a)


@pytest.fixture
def folder(tmp_path):
  """Pictures of 9 x 7 in two classes: 10 a class to train with, 5 to test."""
  rng = np.random.default_rng(0)
  for split, n in dict(train=10, val=5).items():
    for c, name in enumerate(('dark', 'light')):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(n):
        x = rng.integers(0, 100, (7, 9, 3)) + 150 * c
        path = tmp_path / split / name / f'{i}.png'
        Image.fromarray(x.astype(np.uint8)).save(path)
  return tmp_path


def of_folder(folder, **changes):
  fields = dict(path=str(folder), mean=(0.5,) * 3, std=(0.25,) * 3)
  return task(**fields | changes)


@pytest.mark.parametrize('augment', [PLAIN, ARRAYS, PICTURES])
def test_batches_follow_seed_and_step(augment):
  first, again, other = task(augment), task(augment), task(augment, seed=1)
  last = again.batch(3)
  assert equal(first.batch(3), last)
  assert equal(first.batch(0), again.batch(0))
  assert not equal(first.batch(3), first.batch(0))
  assert not equal(first.batch(3), other.batch(3))
  assert last['images'].shape == (12, 8, 8, 1)
  assert last['targets'].shape == (12, 10)
  assert {x.dtype for x in last.values()} == {np.dtype(np.float32)}
  np.testing.assert_allclose(last['targets'].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize('augment', [ARRAYS, PICTURES])
@pytest.mark.parametrize('hosts', [2, 3])
def test_shards_are_the_batch(augment, hosts):
  parts = [task(augment, shard=(i, hosts)).batch(5) for i in range(hosts)]
  whole = task(augment).batch(5)
  for key, x in whole.items():
    np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), x)


def test_plain_batches_are_the_images():
  t = task()
  train, rows = t.source.splits['train'], Epochs(1200, 12, 0)(7)
  batch = t.batch(7)
  np.testing.assert_allclose(
    batch['images'] * 0.376 + 0.305, train.images[rows] / 255, atol=1e-6
  )
  np.testing.assert_array_equal(batch['targets'].argmax(1), train.labels[rows])


def test_folder(folder):
  t = of_folder(folder, augment=PICTURES)
  assert t.model_kwargs == dict(image_size=8, channels=3, outputs=2)
  assert t.batch(0)['images'].shape == (12, 8, 8, 3)
  assert equal(t.batch(4), of_folder(folder, augment=PICTURES).batch(4))
  shown = t.describe()
  assert (shown['train'], shown['val'], shown['test']) == (17, 3, 10)


def test_the_checksum_is_of_pixels_and_labels(folder):
  found = [of_folder(folder).describe()['checksum']]
  path = folder / 'train' / 'dark' / '0.png'
  x = np.array(Image.open(path))
  x[3, 4, 1] ^= 1
  Image.fromarray(x).save(path)
  found.append(of_folder(folder).describe()['checksum'])
  path.rename(folder / 'train' / 'light' / 'z.png')
  found += [of_folder(folder).describe()['checksum'] for _ in range(2)]
  assert len(set(found)) == 3
  assert found[2] == found[3]


def test_damaged_is_replaced_and_counted(folder):
  for name in ('0', '1'):
    (folder / 'train' / 'dark' / f'{name}.png').write_bytes(b'damaged')
  (folder / 'val' / 'light' / '2.png').write_bytes(b'damaged')
  refused('does not decode', lambda: list(map(of_folder(folder).batch, (0, 1))))
  t = of_folder(folder, damaged='skip')
  train = t.source.splits['train']
  rows = Epochs(17, 12, 0)(0).tolist()
  found = t.batch(0)['targets'].argmax(1)
  labels = [train.record(i)[2] for i in train.rows[rows]]
  np.testing.assert_array_equal(found, labels)
  assert 0 in rows  # the next but one takes its place
  plain, third = t.batch(0)['images'][rows.index(0)], train[2][0]
  wanted = image.augment.eval_picture(third, 8, image.augment.Recipe(**PLAIN))
  np.testing.assert_allclose(plain * 0.25 + 0.5, wanted / 255, atol=1e-6)
  t.batch(1)
  assert list(t.describe().values())[-1] == 2
  scores, examples = tiny.evaluate(t, Brightness(), {}, 'test')
  assert scores['images'] == len(examples['right']) == 9
  assert t.describe() != of_folder(folder, damaged='skip').describe()


def test_nothing_decodes(folder):
  for path in folder.glob('*/*/*.png'):
    path.write_bytes(b'damaged')
  t = of_folder(folder, damaged='skip')
  refused('None of the 17 training images', lambda: t.batch(0))
  refused(
    "No image of 'test' in",
    lambda: tiny.evaluate(t, Brightness(), {}, 'test')[0],
  )


class Brightness:
  """A model of two classes: what is brighter than the middle is the second."""

  def apply(self, variables, batch):
    x = batch['images'].mean((1, 2, 3))
    return jnp.stack([-x, x], 1)


class Lookup:
  """A model that gives the image like the i-th the i-th logits."""

  def __init__(self, images, logits):
    self.images, self.logits = images, logits

  def apply(self, variables, batch):
    difference = batch['images'][:, None] - self.images[None]
    return self.logits[jnp.abs(difference).sum((2, 3, 4)).argmin(1)]


def test_brightness_sorts_the_folder(folder):
  scores, examples = tiny.evaluate(of_folder(folder), Brightness(), {}, 'test')
  assert scores['top1'] == 1
  assert 'top5' not in scores


@pytest.mark.parametrize('batch_size', [7, 12, 100])
def test_each_test_image_counts_once(batch_size):
  t = task(batch_size=batch_size)
  n = 43
  test = t.source.splits['test'].select(np.arange(n))
  t.source.splits['test'] = test
  logits = np.random.default_rng(0).normal(size=(n, 10)).astype(np.float32)
  images = (test.images / np.float32(255) - 0.305) / np.float32(0.376)
  model = Lookup(images, jnp.array(logits))
  scores, examples = tiny.evaluate(t, model, {}, 'test')
  order = np.argsort(-logits, 1)
  right = order == test.labels[:, None]
  log_p = np.asarray(jax.nn.log_softmax(logits))[np.arange(n), test.labels]
  assert scores['images'] == n
  assert examples['right'] == right[:, 0].astype(int).tolist()
  assert scores['top1'] == pytest.approx(right[:, 0].mean())
  assert scores['top5'] == pytest.approx(right[:, :5].any(1).mean())
  assert scores['nll'] == pytest.approx(-log_p.mean(), rel=1e-5)


def test_baselines():
  scores, examples = tiny.evaluate(task(), models_of(task()), None, 'test')
  assert scores['majority'] < 0.15
  assert scores['linear'] > 0.95


def models_of(t):
  """A model without parameters that always answers 0."""
  logits = jnp.zeros(10).at[0].set(1.0)
  return types.SimpleNamespace(
    apply=lambda variables, batch: jnp.broadcast_to(
      logits[None], (len(batch['images']), 10)
    )
  )


def test_loss():
  t = task(label_smoothing=0.2)
  logits = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
  targets = t.batch(0)['targets'] * 0.75
  targets[:, 3] += 0.25
  model = types.SimpleNamespace(apply=lambda *_, **__: jnp.array(logits))
  total, weight, aux = t.loss(model, {}, dict(targets=targets), {})
  soft = 0.8 * targets + 0.02
  wanted = -(soft * np.asarray(jax.nn.log_softmax(logits))).sum()
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  assert weight == 12
  right = (logits.argmax(1) == targets.argmax(1)).sum()
  assert aux['accuracy'] == right


def test_learns():
  t = task(batch_size=20)
  fields = dict(patch=4, dim=16, num_layers=1, mlp_dim=32)
  attention = dict(name='mha', num_heads=2)
  model = models.build('vit', **fields, attention=attention, **t.model_kwargs)
  params = model.init(jax.random.key(0), t.batch(0))['params']
  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, opt, batch):
    def loss(params):
      total, weight, _ = t.loss(model, params, batch, {})
      return total / weight

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, value

  before, examples = tiny.evaluate(t, model, params, 'val')
  opt = tx.init(params)
  for i in range(40):
    params, opt, _ = step(params, opt, t.batch(i))
  after, examples = tiny.evaluate(t, model, params, 'val')
  assert before['nll'] == pytest.approx(np.log(10), rel=1e-4)
  assert after['nll'] < before['nll'] - 0.2
  assert after['top1'] > 0.25


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(std=(1.0, 1.0)), 'mean has 1 values, data.std 2'),
    (dict(augment=ARRAYS, batch_size=9), '9 images a host; mixup and cutmix'),
    (dict(augment=ARRAYS | dict(crop='x')), "crop='x'; there are"),
    (dict(batch_size=0), 'data.batch_size=0'),
    (dict(corpus='x'), "data.corpus='x'"),
  ],
)
def test_impossible(changes, message):
  refused(message, lambda: task(**changes))


@pytest.mark.parametrize('subtask', vit.SUBTASKS)
def test_recipes(subtask):
  for size in ('', 'small'):
    c = vit.get_config(f'{subtask},{size}')
    recipe = image.augment.Recipe(**c.data.augment)
    recipe.check()
    assert c.data.image_size % c.model.patch == 0
    assert len(c.data.mean) == len(c.data.std)
    assert size or recipe.mixes


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_score(wrong):
  """Though the first class, which top_k makes of NaN, may be the right one."""
  t = task(batch_size=100)
  good, examples = tiny.evaluate(t, models_of(t), None, 'test')
  assert np.isfinite(list(good.values())).all()

  def apply(variables, batch):
    x = models_of(t).apply(variables, batch)
    return x.at[1, 2].set(wrong)

  for split in ('val', 'test'):
    scores, examples = tiny.evaluate(
      t, types.SimpleNamespace(apply=apply), None, split
    )
    ours = {'nll', 'top1', 'top5'}
    assert all(np.isnan(scores[name]) for name in ours)
    assert all(scores[x] == good[x] for x in scores.keys() - ours)
    assert examples == {}
  assert scores.keys() == good.keys()


def test_damaged_test_image_is_found_before_the_first_step(folder):
  of_folder(folder).check(None)
  (folder / 'val' / 'light' / '2.png').write_bytes(b'damaged')
  refused('light/2.png does not decode', lambda: of_folder(folder).check(None))
  t = of_folder(folder, damaged='skip')
  t.check(None)
  assert t.describe()['damaged so far, the next image instead'] == 1
  for path in folder.glob('val/*/*.png'):
    path.write_bytes(b'damaged')
  t = of_folder(folder, damaged='skip')
  refused("No image of 'test' in", lambda: t.check(None))
