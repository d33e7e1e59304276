# SPDX-License-Identifier: Apache-2.0
"""Reads labelled images by splits: idx files, folders, TFDS or the sample.

Every reader gives a Source with 'train', 'val' and 'test'. Published data sets
have two splits. The one published for the last evaluation is 'test'. 'val' is
held out of the training images, spread evenly over their order, whatever the
seed. A folder with all three splits is used as it is.
"""

from collections import Counter
import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image

from collab import checks
from collab.data.readers import encoded_images, idx, tables
from collab.data.samples import digits
from collab.io import node_files

POLICIES = ('error', 'skip')
# {name in TFDS: its 'test' split}. That of ImageNet has no labels.
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
    """Returns (Pillow's image, label)."""
    return Image.fromarray(self.images[i].squeeze()), int(self.labels[i])

  def select(self, rows: np.ndarray) -> 'Memory':
    """Returns some of the images."""
    return Memory(self.images[rows], self.labels[rows])

  def parts(self) -> list[np.ndarray]:
    """Returns what a checksum is computed of."""
    return [self.images, self.labels]


class Source(NamedTuple):
  """Labelled images by splits.

  Attributes:
    name: description for people: a path, a TFDS name, 'sample'.
    classes: names of the classes; a label is an index into it.
    splits: 'train', 'val' and 'test', each Memory or Encoded.
    damaged: names of images that have failed to decode so far.
    ignored: counts of files that are not images, by suffix.
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
  """Reads the images that a config asks for.

  Args:
    corpus: 'sample', or one of `TFDS`, unless path is given.
    path: path of local files, see `encoded_images.EXPECTED`.
    channels: channels of the images, 1 or 3; image files are converted.
    held_out: number of training images for 'val', if there is no other.
    damaged: 'error' to stop the run at an image that does not decode, or
      'skip'.

  Raises:
    ValueError: a name, path, layout or number is impossible, a split is empty,
      or a file is damaged.
  """
  checks.one_of('data.damaged', damaged, POLICIES)
  if channels not in encoded_images.MODES:
    raise ValueError(f'data.mean has {channels} values; expected 1 or 3.')
  skipped, ignored = set() if damaged == 'skip' else None, Counter()
  name, folder = path or corpus, node_files.fetched(path)
  if path and tables.are_of_datasets(path):
    found = encoded_images.of_tables(path, channels, skipped)
  elif path and not idx.there(folder):
    found = encoded_images.folders(folder, channels, skipped, ignored)
  elif path:
    found = _in_memory(idx.read(folder), name, channels)
  elif corpus == 'sample':
    found = _in_memory(digits.read(), name, channels)
  else:
    checks.one_of('data.corpus', corpus, ['sample', *TFDS])
    found = encoded_images.tfds(corpus, TFDS[corpus], channels, skipped)
  classes, splits = found
  for split, images in splits.items():
    if not len(images):
      raise ValueError(f"{name}: the split '{split}' has no images.")
  if 'val' not in splits:
    splits |= _hold_out(splits['train'], held_out, name)
  names = set() if skipped is None else skipped
  return Source(name, classes, splits, names, dict(ignored))


def _in_memory(splits, name, channels):
  """Makes classes and Memory from {split: (uint8 [N, H, W], labels [N])}."""
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
  """Holds out n training images for 'val', at equal distances."""
  if not 0 < n < len(train):
    raise ValueError(
      f'data.held_out={n}; expected 1 to {len(train) - 1} of the {len(train)} '
      f"training images of {name}, which has no 'val' of its own."
    )
  rows = (np.arange(1, n + 1) * len(train)) // n - 1
  rest = np.delete(np.arange(len(train)), rows)
  return dict(train=train.select(rest), val=train.select(rows))
