# SPDX-License-Identifier: Apache-2.0
"""Readers of image files that are decoded on access: folders and TFDS."""

from collections import Counter
from collections.abc import Callable
import dataclasses
import functools
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from collab import checks
from collab.data.readers import prepared, tables

MODES = {1: 'L', 3: 'RGB'}  # modes of Pillow, by the number of channels
SEEN = 64  # images that a checksum reads
ENDINGS = ('.bmp', '.jpeg', '.jpg', '.png')
EXPECTED = (
  'Expected train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with '
  't10k (plain or .gz), or the folders train/CLASS/IMAGE and val/CLASS/IMAGE '
  f'({", ".join(ENDINGS)}), or train.parquet and test.parquet of `datasets`.'
)


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Images that are decoded on access.

  Attributes:
    record: function of an index -> (name, encoded bytes, label).
    rows: int64 [N], the indices.
    channels: channels of the decoded images, whatever the files have.
    damaged: set that collects the names of images that do not decode; with None
      such an image is an error.
  """

  record: Callable
  rows: np.ndarray
  channels: int
  damaged: set | None

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    """Returns (Pillow's image, label), or None for a damaged image.

    Raises:
      ValueError: the image does not decode, and `damaged` is None.
    """
    name, data, label = self.record(int(self.rows[i]))
    try:
      image = decode(data).convert(MODES[self.channels])
    except Exception as error:  # Pillow's formats raise any kind of exception
      if self.damaged is None:
        raise ValueError(
          f'{name} does not decode ({error}). data.damaged=skip leaves such '
          'images out.'
        ) from error
      self.damaged.add(name)
      return None
    return image, label

  def select(self, rows: np.ndarray) -> 'Encoded':
    """Returns some of the images."""
    return dataclasses.replace(self, rows=self.rows[rows])

  def parts(self) -> list[np.ndarray]:
    """Returns what a checksum is computed of: SEEN images at equal distances.

    Reading them all would take hours.
    """
    places = np.linspace(0, len(self) - 1, min(SEEN, len(self)), dtype=int)
    found = [self.record(int(row))[1:] for row in self.rows[places]]
    images, labels = zip(*found, strict=True)
    sizes = np.array([len(self), *labels])
    return [sizes, *(np.frombuffer(x, np.uint8) for x in images)]


def decode(data: bytes) -> Image.Image:
  """Decodes an image file as viewers show it: a Pillow image of 8 bits.

  The image is rotated by its EXIF orientation, and transparent parts are put on
  white. For 16 bits, mode I included, the upper 8 are used. No format defines
  white for larger values or for fractions.

  Raises:
    ValueError: pixels have more than 16 bits; or an error of Pillow.
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


def folders(
  folder: Path, channels: int, damaged: set | None, ignored: Counter
) -> tuple[tuple[str, ...], dict[str, Encoded]]:
  """Reads classes and splits of a folder SPLIT/CLASS/IMAGE.

  Args:
    folder: folder with train and with val, test or both. The folders in train
      are the classes.
    channels, damaged: see Encoded.
    ignored: counts files that are not images, by suffix.

  Raises:
    ValueError: another layout, an unknown class, or a class without images.
  """
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
    if 0 < len(empty) < len(found):  # all: `images.read` reports it
      raise ValueError(
        f"{folder / name} has the class '{empty[0]}' without an image of "
        f'{", ".join(ENDINGS)}; expected one at least.'
      )
    paths = [path for label in found for path in found[label]]
    counts = [len(found.get(label, ())) for label in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    record = functools.partial(_of_file, paths, labels)
    splits[name] = Encoded(record, np.arange(len(paths)), channels, damaged)
  if 'test' not in splits:  # like ImageNet, whose 'test' is not published
    splits['test'] = splits.pop('val')
  return classes, splits


def _by_class(folder, ignored):
  """Returns {class: paths of its images}, sorted; counts the other files.

  Hidden files and folders are skipped, because notebooks and systems leave
  some.
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


def _of_file(paths, labels, i):
  # An unreadable file is not a damaged image: OSError under either policy.
  return str(paths[i]), paths[i].read_bytes(), int(labels[i])


def of_tables(
  path: str, channels: int, damaged: set | None
) -> tuple[tuple[str, ...], dict[str, Encoded]]:
  """Reads tables of `datasets` with the columns image and label, see `tables`.

  The files of the images are held in memory.

  Args:
    path: see `tables.read`.
    channels, damaged: see Encoded.

  Raises:
    ValueError: as `tables.read`; there is no train or no other split, or a row
      has no image or no class.
  """
  found = tables.read(path, ('image', 'label'))
  classes, splits = found.classes.get('label', ()), {}
  if len(found.readers) < 2 or 'train' not in found.readers:
    raise ValueError(f'{path} needs train and another split. {EXPECTED}')
  for split, reader in found.readers.items():
    rows = []
    for where, (image, label) in reader():
      with checks.located(where):
        if not isinstance(image, dict) or not image.get('bytes'):
          raise ValueError(
            f'image is {image!r:.60}, expected the bytes of one.'
          )
        checks.within('label', label, 0, len(classes) - 1)
      rows.append((where, image['bytes'], label))
    splits[split] = Encoded(
      rows.__getitem__, np.arange(len(rows)), channels, damaged
    )
  if 'test' not in splits:
    splits['test'] = splits.pop('val')
  return classes, splits


def tfds(
  name: str, test: str, channels: int, damaged: set | None
) -> tuple[tuple[str, ...], dict[str, Encoded]]:
  """Reads classes and splits of a TFDS data set, see `prepared.builder`.

  Args:
    name: name in TFDS.
    test: the split that is used as 'test'.
    channels, damaged: see Encoded.

  Raises:
    ValueError: the data set is not prepared, or lacks a split.
  """
  builder = prepared.builder(name, ('image', 'label'))
  from tensorflow_datasets import decode  # slow

  splits = {}
  for split, theirs in dict(train='train', test=test).items():
    if theirs not in builder.info.splits:
      raise ValueError(
        f"{name} is prepared without '{theirs}', only "
        f'{", ".join(builder.info.splits)}. {prepared.how(name)}'
      )
    source = builder.as_data_source(
      split=theirs, decoders=dict(image=decode.SkipDecoding())
    )
    record = functools.partial(_of_tfds, f'{name}:{theirs}', source)
    splits[split] = Encoded(record, np.arange(len(source)), channels, damaged)
  return tuple(builder.info.features['label'].names), splits


def _of_tfds(name, source, i):
  row = source[i]
  return f'{name}, record {i}', row['image'], int(row['label'])
