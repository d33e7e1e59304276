# SPDX-License-Identifier: Apache-2.0
"""Labelled images by splits: idx files, folders, TFDS, or the bundled digits.

Every reader gives a Source with 'train', 'val' and 'test'. The published sets
have two splits: what they publish for the last evaluation is 'test', and 'val'
is held out of their training images, spread evenly over their order, whatever
the seed. A folder with all three is taken as it is.
"""

from collections import Counter
import dataclasses
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from collab.data.readers import idx, prepared

POLICIES = ('error', 'skip')
MODES = {1: 'L', 3: 'RGB'}  # Pillow's, by the number of channels
ENDINGS = ('.bmp', '.jpeg', '.jpg', '.png')
# In TFDS, and the split that is 'test' here: that of ImageNet has no labels.
TFDS = dict(
  imagenet2012='validation',
  cifar10='test',
  cifar100='test',
  mnist='test',
  fashion_mnist='test',
)
EXPECTED = (
  'Expected train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with '
  't10k (plain or .gz), or the folders train/CLASS/IMAGE and val/CLASS/IMAGE '
  f'({", ".join(ENDINGS)}).'
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

  def select(self, rows):
    return Memory(self.images[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Images that are decoded where they are needed.

  Attributes:
    records: random access, i -> (name, encoded bytes, label).
    rows: int64 [N], which records.
    channels: of the images that come out, whatever the files have.
    damaged: a set that gets the names of the images that do not decode; None
      makes them an error.
  """

  records: object
  rows: np.ndarray
  channels: int
  damaged: set | None

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    """(Pillow's image, label), or None for a damaged one.

    Raises:
      ValueError: it does not decode, and `damaged` is None.
    """
    name, data, label = self.records[int(self.rows[i])]
    try:
      image = decode(data).convert(MODES[self.channels])
    except Exception as error:  # Pillow's formats raise what they like
      if self.damaged is None:
        raise ValueError(
          f'{name} does not decode ({error}). data.damaged=skip leaves such '
          'images out.'
        ) from error
      self.damaged.add(name)
      return None
    return image, label

  def select(self, rows):
    return dataclasses.replace(self, rows=self.rows[rows])


def decode(data):
  """The bytes of an image file as it is to be seen: Pillow's image, 8 bits.

  Turned as its EXIF orientation says, on white where it is transparent. Of 16
  bits, mode I too, the upper 8 count; for what goes beyond, and for fractions,
  no format says what is white.

  Raises:
    ValueError: pixels of more than 16 bits; and what Pillow raises.
  """
  image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  if image.mode.startswith(('I', 'F')):
    pixels = np.asarray(image)
    if image.mode == 'F' or pixels.min() < 0 or pixels.max() >= 2**16:
      raise ValueError(f'pixels of mode {image.mode}, expected 8 or 16 bits')
    clear = pixels == image.info.get('transparency')
    return Image.fromarray(np.where(clear, 255, pixels >> 8).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image


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


def read(*, corpus, path='', channels=3, held_out=0, damaged='error'):
  """The images of a config.

  Args:
    corpus: 'sample', or one of `TFDS`, unless path is given.
    path: of local files, see `EXPECTED`.
    channels: of the images, 1 or 3; files of images are converted.
    held_out: training images that are 'val', where nothing else is.
    damaged: what an image that does not decode is: 'error', or 'skip'.

  Raises:
    ValueError: a name, path, layout or number that is impossible, an empty
      split, a damaged file.
  """
  if damaged not in POLICIES:
    raise ValueError(
      f"damaged is '{damaged}'; there are {', '.join(POLICIES)}."
    )
  if channels not in MODES:
    raise ValueError(f'{channels} channels (of data.mean); expected 1 or 3.')
  skipped, ignored = set() if damaged == 'skip' else None, Counter()
  if path:
    folder = Path(path)
    if idx.there(folder):
      found = _idx(folder)
    else:
      found = _folders(folder, channels, skipped, ignored)
  elif corpus == 'sample':
    found = _digits()
  elif corpus in TFDS:
    found = _tfds(corpus, channels, skipped)
  else:
    legal = ', '.join(['sample', *TFDS])
    raise ValueError(f"No data.corpus '{corpus}'; there are {legal}.")
  classes, splits = found
  name = path or corpus
  for split, images in splits.items():
    if not len(images):
      raise ValueError(f"{name}: the split '{split}' has no images.")
  if 'val' not in splits:
    splits |= _hold_out(splits['train'], held_out, name)
  images = splits['train']
  if isinstance(images, Memory) and images.images.shape[-1] != channels:
    raise ValueError(
      f'{name} has images of {images.images.shape[-1]} channel; data.mean and '
      f'data.std have {channels}.'
    )
  damaged = set() if skipped is None else skipped
  return Source(name, classes, splits, damaged, dict(ignored))


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


# scikit-learn -----------------------------------------------------------------


def _digits():
  """1,797 digits of 8 x 8 pixels: 1,200 to train, 197 val, 400 test."""
  from sklearn import datasets  # slow, and the other sources do not need it

  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  every = Memory(images, digits.target.astype(np.int32))
  order = np.random.default_rng(0).permutation(len(images))
  parts = np.split(order, [1200, 1397])
  splits = zip(('train', 'val', 'test'), map(every.select, parts), strict=True)
  return tuple('0123456789'), dict(splits)


def _idx(folder):
  splits = {
    split: Memory(images[..., None], labels.astype(np.int32))
    for split, (images, labels) in idx.read(folder).items()
  }
  n = max(splits['train'].labels, default=0) + 1
  return tuple(map(str, range(n))), splits


# Folders ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Files:
  """Records of image files."""

  paths: list
  labels: np.ndarray

  def __getitem__(self, i):
    # An unreadable file is no damaged image: OSError whatever the policy.
    return str(self.paths[i]), self.paths[i].read_bytes(), int(self.labels[i])


def _folders(folder, channels, damaged, ignored):
  """SPLIT/CLASS/IMAGE; classes are the folders of 'train', by name."""
  names = [s for s in ('train', 'val', 'test') if (folder / s).is_dir()]
  if 'train' not in names or len(names) == 1:
    there = 'is no folder' if not folder.is_dir() else 'has no images'
    raise ValueError(f'{folder} {there} in a known layout. {EXPECTED}')
  classes, splits = (), {}
  for name in names:
    found = _by_class(folder / name, ignored)
    classes = classes or tuple(found)
    unknown = sorted(found.keys() - set(classes))
    if unknown:
      raise ValueError(
        f"{folder / name} has the class '{unknown[0]}', which "
        f'{folder / "train"} has not.'
      )
    empty = [label for label in found if not found[label]]
    if empty and empty != list(
      found
    ):  # all of them: an empty split, see `read`
      raise ValueError(
        f"{folder / name} has the class '{empty[0]}' without an image of "
        f'{", ".join(ENDINGS)}; expected one at least.'
      )
    paths = [path for label in found for path in found[label]]
    counts = [len(found.get(label, ())) for label in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    records = _Files(paths, labels)
    splits[name] = Encoded(records, np.arange(len(paths)), channels, damaged)
  if 'test' not in splits:  # as ImageNet, whose 'test' is not published
    splits['test'] = splits.pop('val')
  return classes, splits


def _by_class(folder, ignored):
  """{class: paths of its images}, by name; counts what else is there.

  What is hidden is none of the data: notebooks and systems leave such names.
  """
  places = [p for p in sorted(folder.iterdir()) if _visible(p.name)]
  found = {p.name: [] for p in places if p.is_dir()}
  paths = [p for p in places if p.name not in found]
  for label in found:
    for inner, folders, names in os.walk(folder / label):
      folders[:] = filter(_visible, folders)
      paths += [Path(inner, name) for name in filter(_visible, names)]
  for path in sorted(paths):
    if path.parent.parent == folder and path.suffix.lower() in ENDINGS:
      found[path.parent.name].append(path)
    else:
      ignored[path.suffix.lower() or path.name] += 1
  return found


def _visible(name):
  return not name.startswith('.')


# TFDS -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Records:
  """Records of a TFDS data source whose images are not decoded."""

  name: str
  source: object

  def __getitem__(self, i):
    row = self.source[i]
    return f'{self.name}, record {i}', row['image'], int(row['label'])


def _tfds(name, channels, damaged):
  builder = prepared.builder(name, ('image', 'label'))
  from tensorflow_datasets import decode  # slow

  splits = {}
  for split, theirs in dict(train='train', test=TFDS[name]).items():
    if theirs not in builder.info.splits:
      raise ValueError(
        f"{name} is prepared without '{theirs}', only "
        f'{", ".join(builder.info.splits)}. {prepared.how(name)}'
      )
    source = builder.as_data_source(
      split=theirs, decoders=dict(image=decode.SkipDecoding())
    )
    records = _Records(f'{name}:{theirs}', source)
    splits[split] = Encoded(records, np.arange(len(source)), channels, damaged)
  return tuple(builder.info.features['label'].names), splits
