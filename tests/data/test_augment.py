# SPDX-License-Identifier: Apache-2.0
"""Augmentations keep shapes, follow their generator, and do what they say."""

import numpy as np
from PIL import Image
import pytest

from collab.data import augment
from tests.data.test_sources import refused

OFF = dict(crop='none', flip=False, ops=0, erasing=0.0, mixup=0.0, cutmix=0.0)


def rng(seed=0):
  return np.random.default_rng(seed)


def picture(mode='RGB', size=(31, 23)):
  shape = (size[1], size[0], 3)[: len(mode) if mode == 'RGB' else 2]
  return Image.fromarray(rng(9).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(crop='center'), "crop='center'; there are resized, padded, none"),
    (dict(crop='padded'), "padding=0 with crop='padded'"),
    (dict(padding=2), "padding=2 with crop='none'"),
    (dict(magnitude=11.0), 'magnitude=11.0; expected 0 to 10'),
    (dict(erasing=1.5), 'erasing=1.5; expected 0 to 1'),
    (dict(ops=-1), 'ops=-1; expected at least 0'),
    (dict(mixup=-0.1), 'mixup=-0.1; expected at least 0'),
  ],
)
def test_impossible(changes, message):
  refused(message, augment.Recipe(**OFF | changes).check)


def test_possible():
  augment.Recipe().check()
  augment.Recipe(**OFF).check()


@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize('name', augment.OPERATIONS)
def test_operations(name, mode):
  image = picture(mode)
  for sign in (-1, 1):
    found = augment.OPERATIONS[name](image, 0.9, sign)
    assert (found.mode, found.size) == (image.mode, image.size)
    same = np.array_equal(found, image)
    # A grey picture has no colour, noise over all values no range to stretch.
    exceptions = {'identity', 'auto_contrast', 'equalize'}
    exceptions |= {'color'} if mode == 'L' else set()
    assert not same or name in exceptions
  if name not in exceptions | {'auto_contrast', 'equalize', 'posterize'}:
    weak = augment.OPERATIONS[name](image, 0.0, 1)
    np.testing.assert_allclose(weak, image, atol=1)


def test_stretching():
  grey = Image.fromarray(
    np.arange(100, 142, dtype=np.uint8).repeat(70).reshape(60, 49)
  )
  for name in ('auto_contrast', 'equalize'):
    found = np.asarray(augment.OPERATIONS[name](grey, 0.9, 1))
    assert found.min() == 0
    assert found.max() > 240


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_rand_augment_follows_its_key(mode):
  image, recipe = picture(mode), augment.Recipe(**OFF | dict(ops=2))

  def made(seed):
    return augment.train_picture(image, 23, recipe, rng(seed))

  plain = augment.eval_picture(image, 23, recipe)
  found = [made(seed) for seed in range(20)]
  for seed, x in enumerate(found):
    assert x.shape == (23, 23, len(mode) if mode == 'RGB' else 1)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x, made(seed))
  assert sum(not np.array_equal(x, plain) for x in found) > 10
  assert len({x.tobytes() for x in found}) > 10


@pytest.mark.parametrize('size', [(31, 23), (7, 61), (64, 5), (1, 1)])
def test_resized_crops(size):
  areas = []
  for seed in range(50):
    left, upper, right, lower = augment.crop_box(size, rng(seed))
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]
    areas.append((right - left) * (lower - upper) / np.prod(size))
  if min(size) > 20:
    assert 0.05 < min(areas) < 0.3
    assert max(areas) > 0.8
  recipe = augment.Recipe(**OFF | dict(crop='resized'))
  found = augment.train_picture(picture(size=size), 13, recipe, rng())
  assert found.shape == (13, 13, 3)


def test_evaluated_is_the_middle():
  values = np.zeros((80, 160), np.uint8)
  values[:, 45:115] = 255  # the middle 70 = 7/8 of 80, and nothing else
  image = Image.fromarray(values)
  zoomed = augment.eval_picture(image, 35, augment.Recipe())
  assert zoomed.shape == (35, 35, 1)
  assert zoomed.min() > 200
  whole = augment.eval_picture(image, 40, augment.Recipe(**OFF))
  assert whole[20, 0, 0] == 0
  exact = picture(size=(23, 23))
  np.testing.assert_array_equal(
    augment.eval_picture(exact, 23, augment.Recipe()), exact
  )


def test_padded_crop_and_flip():
  x = rng().integers(1, 256, (5, 7, 7, 3), np.uint8)
  u = np.array([[0.5, 0.5], [0, 0], [0.99, 0], [0, 0.99], [0.99, 0.99]])
  y = augment.padded_crop(x, 2, u)
  assert y.shape == x.shape
  assert y.dtype == np.uint8
  np.testing.assert_array_equal(y[0], x[0])
  np.testing.assert_array_equal(y[1, 2:, 2:], x[1, :-2, :-2])
  np.testing.assert_array_equal(y[2, :-2, 2:], x[2, 2:, :-2])
  np.testing.assert_array_equal(y[3, 2:, :-2], x[3, :-2, 2:])
  np.testing.assert_array_equal(y[4, :-2, :-2], x[4, 2:, 2:])
  assert y[1, :2].max() == y[4, :, -2:].max() == 0
  flipped = augment.flip(x, np.array([0.1, 0.9, 0.4, 0.5, 0.6]))
  np.testing.assert_array_equal(flipped[[0, 2]], x[[0, 2], :, ::-1])
  np.testing.assert_array_equal(flipped[[1, 3, 4]], x[[1, 3, 4]])


def test_normalize():
  x = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
  y = augment.normalize(x, (0.5, 0.2, 0.0), (0.5, 0.25, 2.0))
  assert y.dtype == np.float32
  np.testing.assert_allclose(y[0, 0, 0], [-1, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize('size', [2, 11, 32])
def test_erasing(size):
  shares = []
  for seed in range(40):
    x = np.full((size, size, 3), 7, np.float32)
    augment.erase(x, rng(seed))
    rows, columns = np.nonzero((x != 7).all(-1))
    h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == h * w  # a rectangle, and all of it
    shares.append(h * w / size**2)
  if size > 10:
    assert min(shares) > 0.01
    assert max(shares) < 0.4


@pytest.mark.parametrize('cut', [True, False])
def test_mixing(cut):
  """Row 2i takes of 2i + 1 what its target says, and the other way round."""
  B, S, N = 6, 13, 5
  x = np.arange(1, B + 1, dtype=np.float32)[:, None, None, None]
  x = np.broadcast_to(x, (B, S, S, 1))
  targets = np.eye(N, dtype=np.float32)[[0, 1, 2, 3, 4, 4]]
  recipe = augment.Recipe(**OFF | {'cutmix' if cut else 'mixup': 1.0})
  shares = []
  for seed in range(20):
    y, mixed = augment.mix(x, targets, recipe, rng(seed))
    assert y.dtype == mixed.dtype == np.float32
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    share = mixed[0, 0]
    np.testing.assert_allclose(mixed[0, 1], 1 - share, atol=1e-6)
    np.testing.assert_allclose(mixed[3, 3], share, atol=1e-6)
    np.testing.assert_array_equal(mixed[4], targets[4])
    for i in range(0, B, 2):
      of = share * x[i] + (1 - share) * x[i + 1]
      if cut:
        assert set(np.unique(y[i])) <= {i + 1, i + 2}
        np.testing.assert_allclose((y[i] == i + 1).mean(), share, atol=1e-6)
      else:
        np.testing.assert_allclose(y[i], of, rtol=1e-5)
    shares.append(share)
  assert len(set(shares)) > 10


def test_both_ways_of_mixing():
  x = np.stack([np.zeros((9, 9, 1)), np.ones((9, 9, 1))]).astype(np.float32)
  targets = np.eye(2, dtype=np.float32)
  recipe = augment.Recipe()
  cut = [
    np.isin(augment.mix(x, targets, recipe, rng(i))[0], (0, 1)).all()
    for i in range(100)
  ]
  assert 30 < sum(cut) < 70
