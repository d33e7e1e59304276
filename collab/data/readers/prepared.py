# SPDX-License-Identifier: Apache-2.0
"""Opens data sets that TFDS has prepared on this machine."""

from collections.abc import Iterator
from pathlib import Path
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import tensorflow_datasets


def builder(
  name: str, features: tuple[str, ...] = (), data_dir: Path | None = None
) -> 'tensorflow_datasets.core.DatasetBuilder':
  """Opens the TFDS builder of a data set that is prepared as array_record.

  The data is read by random access (`as_data_source`), without TensorFlow. It
  is never downloaded here, because preparing it may take hours and is the
  user's decision.

  Args:
    name: TFDS name with its configuration, e.g. 'glue/sst2'.
    features: features that an example must have.
    data_dir: folder of TFDS' data; None is TFDS' default.

  Raises:
    ValueError: the name is missing or unknown, or the data set is not prepared
      or lacks the features.
  """
  if not name:
    raise ValueError(
      'There is no data: give local files by data.path, or the name of a data '
      'set of TFDS by data.corpus.'
    )
  if re.match(r'[\w-]+:\D', name):  # the colon is not followed by a version
    raise ValueError(
      f'{name} is in a namespace: TFDS would fetch and run its code.'
    )
  import tensorflow_datasets  # slow, and the other sources do not need it

  _refuse_foreign_features(tensorflow_datasets.features.FeatureConnector)
  try:
    found = tensorflow_datasets.builder(
      name, data_dir=data_dir, file_format='array_record'
    )
  except Exception as error:  # TFDS raises its own exceptions and many others
    reason = str(error).strip().split('\n')[0]
    raise ValueError(f"TFDS cannot open '{name}': {reason}") from error
  if not found.info.splits:
    raise ValueError(
      f'{name} is not prepared as array_record in {found.data_dir}. '
      f'{how(name, data_dir)}'
    )
  if not set(features) <= set(found.info.features):
    raise ValueError(
      f'{name} has {", ".join(found.info.features)}; got '
      f'{" and ".join(features)}.'
    )
  return found


def splits(
  builder: 'tensorflow_datasets.core.DatasetBuilder',
) -> dict[str, str]:
  """Returns {split: its name in TFDS} of the splits that a data set has."""
  names = dict(train='train', val='validation', test='test')
  there = builder.info.splits
  return {ours: theirs for ours, theirs in names.items() if theirs in there}


def rows(
  builder: 'tensorflow_datasets.core.DatasetBuilder', split: str
) -> Iterator[dict]:
  """Yields the examples of a split with JSON's types: str, int, float, list."""
  return map(_plain, builder.as_data_source(split=split))


def _plain(value):
  if isinstance(value, dict):
    return {key: _plain(x) for key, x in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  if getattr(value, 'ndim', 0) or isinstance(value, (list, tuple)):
    return [_plain(x) for x in value]
  return value.item() if hasattr(value, 'item') else value


def _refuse_foreign_features(connector):
  """Makes TFDS refuse all classes of features except its own.

  TFDS imports the module of any class that the features.json of a folder names,
  at any depth. This would run code that lies beside the data.
  """
  known = connector._registered_features

  def cls_from_name(name):
    if name not in known:
      raise ValueError(f'features.json names {name}, which is none of TFDS.')
    return known[name]

  connector.cls_from_name = cls_from_name


def how(name: str, data_dir: Path | None = None) -> str:
  """Says how to get a missing data set or split, for errors."""
  program = (
    f'import tensorflow_datasets as t; t.builder({name!r}, '
    f"data_dir={data_dir!r}, file_format='array_record').download_and_prepare()"
  )
  return (
    f'Prepare it once (it downloads): python -c {shlex.quote(program)}; or '
    'give local files by data.path.'
  )
