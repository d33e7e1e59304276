# SPDX-License-Identifier: Apache-2.0
"""Classification of images: ImageNet, CIFAR, MNIST, or a folder of images.

Axes: B images, S side, C channels, N classes.
"""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from collab import models, tasks
from collab.data import augment, cache, epochs
from collab.data.readers import images
from collab.model_json import Meaning

# Each purpose has a random generator of its own in a step.
BATCH, PICTURE, ERASE = 1, 2, 3


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageClassification(tasks.OfConfig):
  """Image classification; see tasks.Task.

  A training batch is a dict of
    images   float32 [B, S, S, C], augmented and normalised
    targets  float32 [B, N], one-hot or mixed, without label smoothing

  `data` has the fields of `images.read` except channels; image_size (S),
  batch_size (of the global batch), mean and std (of each channel, for values 0
  to 1), augment (fields of augment.Recipe).

  Attributes:
    label_smoothing: label smoothing of the training loss.
  """

  label_smoothing: float = 0.1
  unit = 'images'

  def __post_init__(self):
    data = dict(self.data)
    self._size, size = data.pop('image_size'), data.pop('batch_size')
    self._mean, self._std = data.pop('mean'), data.pop('std')
    self._recipe = augment.Recipe(**data.pop('augment'))
    self._recipe.check()
    channels = len(self._mean)
    if len(self._std) != channels:
      raise ValueError(
        f'data.mean has {channels} values, data.std {len(self._std)}.'
      )
    if not all(isinstance(x, float | int) for x in self._mean + self._std):
      raise ValueError(
        f'data.mean is {self._mean} and data.std {self._std}; expected numbers.'
      )
    self.source = images.read(channels=channels, **data)
    self._train = self.source.splits['train']
    self.rows = self.epochs(len(self._train))
    host, hosts = self.shard
    R = size // hosts
    if self._recipe.mixes and R % 2:
      raise ValueError(
        f'data.batch_size={size} is {R} images a host; mixup and cutmix need '
        'an even number.'
      )
    self._mine = range(host * R, (host + 1) * R)  # rows of the global batch
    self.units_per_step = size
    self._shape = (self._size, self._size, channels)
    self._outputs = len(self.source.classes)
    self.model_kwargs = dict(
      image_size=self._size, channels=channels, outputs=self._outputs
    )
    self.meaning = Meaning(classes=self.source.classes)

  def check(self, model: models.Model) -> None:
    """See tasks.Task. Decodes every image of the evaluations once."""
    for name in ('val', 'test'):
      if not isinstance(self.source.splits[name], images.Memory):
        self._decode(name, self.source.splits[name])

  def _decode(self, name, split):
    with futures.ThreadPoolExecutor() as pool:  # Pillow releases the GIL
      found = pool.map(lambda i: split[i] is not None, range(len(split)))
      bar = tqdm(found, f'decoding {name}', len(split), delay=1, disable=None)
      if not sum(bar):
        raise ValueError(f"No image of '{name}' in {self.source.name} decodes.")

  def batch(self, step: int) -> dict[str, np.ndarray]:
    recipe, rng = self._recipe, self._rng(step, BATCH)
    u = rng.random((self.units_per_step, 4))[self._mine]
    x, labels = self._pictures(step)
    if recipe.crop == 'padded':
      x = augment.padded_crop(x, recipe.padding, u[:, :2])
    if recipe.flip:
      x = augment.flip(x, u[:, 2])
    x = augment.normalize(x, self._mean, self._std)
    for i in np.flatnonzero(u[:, 3] < recipe.erasing):
      augment.erase(x[i], self._rng(step, ERASE, self._mine[i]))
    targets = np.eye(self._outputs, dtype=np.float32)[labels]
    if recipe.mixes:
      x, targets = augment.mix(x, targets, recipe, rng)
    return dict(images=x, targets=targets)

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    logits = model.apply({'params': params}, batch, rngs=rngs)
    logits = logits.astype(jnp.float32)
    targets = batch['targets']
    smooth = optax.smooth_labels(targets, self.label_smoothing)
    losses = optax.softmax_cross_entropy(logits, smooth)
    right = logits.argmax(-1) == targets.argmax(-1)
    return losses.sum(), jnp.float32(len(losses)), dict(accuracy=right.sum())

  def score(
    self, model: models.Model, params: Mapping, batch: dict
  ) -> dict[str, jax.Array]:
    """Computes nll float32 [R], and whether the class is in the top 1 and 5."""
    logits = model.apply({'params': params}, batch).astype(jnp.float32)
    labels = batch['labels']
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    best = jax.lax.top_k(logits, min(5, self._outputs))[1]
    hits = best == labels[:, None]
    found = dict(nll=nll, top1=hits[:, 0])
    return found | (dict(top5=hits.any(1)) if self._outputs > 5 else {})

  def passes(self, model: models.Model, split: str) -> dict[str, tasks.Pass]:
    n = len(self.source.splits[split])
    size = min(self.units_per_step, n)
    batch = functools.partial(self._eval_batch, split, size)
    return dict(images=tasks.Pass(self.score, batch, -(-n // size)))

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes top-1, top-5 and loss; for 'test' also the number of images."""
    rows = found['images']
    n = len(rows['nll'])
    if not n:
      raise ValueError(f"No image of '{split}' in {self.source.name} decodes.")
    scores = {name: float(x.mean(dtype=float)) for name, x in rows.items()}
    if split == 'test':
      scores['images'] = n
    return scores, dict(right=rows['top1'].astype(int).tolist())

  def baselines(self, split: str) -> dict[str, float]:
    """Computes majority and logistic regression on the sample's test images."""
    if split == 'test' and self.source.name == 'sample':
      return baselines(**self.source.splits)
    return {}

  def describe(self) -> dict[str, Any]:
    shown = dict(images=self.source.name, classes=self._outputs)
    shown |= {name: len(split) for name, split in self.source.splits.items()}
    shown['steps per epoch'] = self.rows.steps_per_epoch
    parts = (split.parts() for split in self.source.splits.values())
    shown['checksum'] = cache.checksum(*itertools.chain.from_iterable(parts))
    if self.source.damaged:
      shown['damaged so far, the next image instead'] = len(self.source.damaged)
    if self.source.ignored:
      counts = [f'{n} {ending}' for ending, n in self.source.ignored.items()]
      shown['files that are no images'] = ', '.join(counts)
    return shown

  def _rng(self, step, *purpose):
    return np.random.default_rng((self.seed, step, *purpose))

  def _pictures(self, step):
    """Makes images uint8 [B, S, S, C] and labels [B], augmented by Pillow."""
    rows, recipe = self.rows(step), self._recipe
    whole = not recipe.ops and recipe.crop != 'resized'
    if whole and self._ready(self._train):
      return self._train.images[rows], self._train.labels[rows]

    def picture(place, row):
      image, label = _next(self._train, row)
      rng = self._rng(step, PICTURE, place)
      return augment.train_picture(image, self._size, recipe, rng), label

    with futures.ThreadPoolExecutor() as pool:  # Pillow releases the GIL
      found = list(pool.map(picture, self._mine, rows.tolist()))
    pictures, labels = zip(*found, strict=True)
    return np.stack(pictures), np.array(labels)

  def _ready(self, split):
    """Returns whether a split is in memory at the model's image size."""
    memory = isinstance(split, images.Memory)
    return memory and split.images.shape[1:] == self._shape

  def _eval_batch(self, split, size, i):
    """Makes a dict of images, labels and place, all [size, ...]."""
    split = self.source.splits[split]
    rows, place = epochs.part(i, len(split), size)
    if self._ready(split):
      x, labels = split.images[rows], split.labels[rows]
    else:
      x = np.zeros((size, *self._shape), np.uint8)
      labels = np.zeros(size, np.int32)

      def picture(i):
        found = split[rows[i]]
        if found is None:  # damaged and to be skipped
          place[i] = -1
        else:
          x[i] = augment.eval_picture(found[0], self._size, self._recipe)
          labels[i] = found[1]

      with futures.ThreadPoolExecutor() as pool:
        list(pool.map(picture, np.flatnonzero(place >= 0)))
    x = augment.normalize(x, self._mean, self._std)
    return dict(images=x, labels=labels, place=place)


build = ImageClassification


def baselines(
  train: images.Memory, val: images.Memory, test: images.Memory
) -> dict[str, float]:
  """Computes accuracies on `test` without a network, from images.Memory."""
  from sklearn.linear_model import LogisticRegression  # slow

  def pixels(split):
    return split.images.reshape(len(split), -1) / 255

  linear = LogisticRegression(max_iter=1000).fit(pixels(train), train.labels)
  return dict(
    majority=float(np.mean(test.labels == np.bincount(train.labels).argmax())),
    linear=float(linear.score(pixels(test), test.labels)),
  )


def _next(split, row):
  """Returns example `row`, or the next one that is not damaged."""
  for i in range(row, row + len(split)):
    found = split[i % len(split)]
    if found is not None:
      return found
  raise ValueError(f'None of the {len(split)} training images decodes.')
