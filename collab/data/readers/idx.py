# SPDX-License-Identifier: Apache-2.0
"""Reads idx files, the published format of MNIST and Fashion-MNIST.

The format is two zero bytes, the type (8: uint8), the number of dimensions,
each dimension as a big-endian int32, and the values in C order.
"""

import math
from pathlib import Path

import numpy as np

from collab.io import text_lines

PREFIXES = dict(train='train', test='t10k')


def there(folder: Path) -> bool:
  """Returns whether a folder has idx files."""
  return any(folder.glob('*-idx?-ubyte*'))


def read(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Reads images and labels, plain or .gz.

  Args:
    folder: Path of PREFIX-images-idx3-ubyte and PREFIX-labels-idx1-ubyte, with
      the prefixes train and t10k.

  Returns:
    {'train' or 'test': (uint8 [N, H, W], uint8 [N])}.

  Raises:
    ValueError: a file is missing or damaged, or has another format or length.
  """
  splits = {}
  for split, prefix in PREFIXES.items():
    images, images_path = _find(folder, f'{prefix}-images-idx3-ubyte', 3)
    labels, labels_path = _find(folder, f'{prefix}-labels-idx1-ubyte', 1)
    if len(images) != len(labels):
      raise ValueError(
        f'{images_path} has {len(images)} images and {labels_path} '
        f'{len(labels)} labels.'
      )
    splits[split] = images, labels
  (_, train), (_, test) = splits.values()
  unknown = sorted(set(test.tolist()) - set(train.tolist()))
  if unknown and len(train):
    raise ValueError(
      f'{labels_path} has the label {unknown[0]}, which no training image has.'
    )
  return splits


def _find(folder, name, dimensions):
  """Reads the array of a file or its .gz; also returns the path."""
  found = [p for p in (folder / name, folder / f'{name}.gz') if p.is_file()]
  if len(found) != 1:
    amount = 'both' if found else 'neither'
    raise ValueError(
      f'{folder} has {amount} {name} and {name}.gz, expected one of them.'
    )
  return array(found[0], dimensions), found[0]


def array(path: Path, dimensions: int) -> np.ndarray:
  """Reads a read-only uint8 array from one file; errors as in `read`."""
  with text_lines.opened(path) as file:
    data = file.read()
  magic = bytes([0, 0, 8, dimensions])
  begin = 4 + 4 * dimensions
  if data[:4] != magic or len(data) < begin:
    raise ValueError(
      f"{path} begins with '{data[:4].hex()}', expected '{magic.hex()}': an "
      f'idx file of bytes in {dimensions} dimensions.'
    )
  shape = np.frombuffer(data[4:begin], '>i4').tolist()
  if min(shape) < 0 or len(data) - begin != math.prod(shape):
    raise ValueError(
      f'{path} has {len(data) - begin} values, but its header says '
      f'{" x ".join(map(str, shape))}.'
    )
  return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
