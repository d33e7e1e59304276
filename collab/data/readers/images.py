# SPDX-License-Identifier: Apache-2.0
"""Labelled images by splits: idx files, folders, TFDS, or the bundled digits.

Every reader gives a Source with 'train', 'val' and 'test'. The published sets
have two splits: what they publish for the last evaluation is 'test', and 'val'
is held out of their training images, spread evenly over their order, whatever
the seed. A folder with all three is taken as it is.
"""

from collections import Counter
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from collab.data.readers import encoded_images, idx
from collab.data.samples import digits

POLICIES = ('error', 'skip')
# In TFDS, and the split that is 'test' here: that of ImageNet has no labels.
TFDS = dict(
  imagenet2012='validation',
  cifar10='test',
  cifar100='test',
  mnist='test',
  fashion_mnist='test',
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """Images in memory.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N].
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, i):
    """(Pillow's image, label)."""
    return Image.fromarray(self.images[i].squeeze()), int(self.labels[i])

  def select(self, rows: np.ndarray) -> 'Memory':
    """Some of the images."""
    return Memory(self.images[rows], self.labels[rows])


class Source(NamedTuple):
  """Labelled images.

  Attributes:
    name: what it is, for people: a path, a TFDS name, 'sample'.
    classes: their names; a label is an index of it.
    splits: 'train', 'val' and 'test': Memory or Encoded.
    damaged: names of images that did not decode, so far.
    ignored: files in folders of images that are no images here, by ending.
  """

  name: str
  classes: tuple[str, ...]
  splits: dict
  damaged: set
  ignored: dict[str, int]


def read(
  *,
  corpus: str,
  path: str = '',
  channels: int = 3,
  held_out: int = 0,
  damaged: str = 'error',
) -> Source:
  """The images of a config.

  Args:
    corpus: 'sample', or one of `TFDS`, unless path is given.
    path: of local files, see `encoded_images.EXPECTED`.
    channels: of the images, 1 or 3; files of images are converted.
    held_out: how many training images are 'val', if there is no other.
    damaged: 'error' if an image that does not decode stops the run, or 'skip'.

  Raises:
    ValueError: a name, path, layout or number that is impossible, an empty
      split, a damaged file.
  """
  if damaged not in POLICIES:
    raise ValueError(
      f"damaged is '{damaged}'; there are {', '.join(POLICIES)}."
    )
  if channels not in encoded_images.MODES:
    raise ValueError(f'{channels} channels (of data.mean); expected 1 or 3.')
  skipped, ignored = set() if damaged == 'skip' else None, Counter()
  name, folder = path or corpus, Path(path)
  if path and not idx.there(folder):
    found = encoded_images.folders(folder, channels, skipped, ignored)
  elif path:
    found = _in_memory(idx.read(folder), name, channels)
  elif corpus == 'sample':
    found = _in_memory(digits.read(), name, channels)
  elif corpus in TFDS:
    found = encoded_images.tfds(corpus, TFDS[corpus], channels, skipped)
  else:
    legal = ', '.join(['sample', *TFDS])
    raise ValueError(f"No data.corpus '{corpus}'; there are {legal}.")
  classes, splits = found
  for split, images in splits.items():
    if not len(images):
      raise ValueError(f"{name}: the split '{split}' has no images.")
  if 'val' not in splits:
    splits |= _hold_out(splits['train'], held_out, name)
  names = set() if skipped is None else skipped
  return Source(name, classes, splits, names, dict(ignored))


def _in_memory(splits, name, channels):
  """Classes and Memory of {split: (images uint8 [N, H, W], labels [N])}."""
  if channels != 1:
    raise ValueError(
      f'{name} has images of 1 channel; data.mean and data.std have {channels}.'
    )
  found = {
    split: Memory(images[..., None], labels.astype(np.int32))
    for split, (images, labels) in splits.items()
  }
  n = max(found['train'].labels, default=0) + 1
  return tuple(map(str, range(n))), found


def _hold_out(train, n, name):
  """'train' and 'val': n images at equal distances, so of every class."""
  if not 0 < n < len(train):
    raise ValueError(
      f'data.held_out={n}; expected 1 to {len(train) - 1} of the {len(train)} '
      f"training images of {name}, which has no 'val' of its own."
    )
  rows = (np.arange(1, n + 1) * len(train)) // n - 1
  rest = np.delete(np.arange(len(train)), rows)
  return dict(train=train.select(rest), val=train.select(rows))
