# SPDX-License-Identifier: Apache-2.0
"""Data sets that TFDS has prepared on this machine."""


def builder(name, features=(), data_dir=None):
  """The TFDS builder of a data set that is prepared as array_record.

  It is read by random access (`as_data_source`), without TensorFlow, and never
  downloaded here: preparing may take hours and is a decision of its own.

  Args:
    name: TFDS name with its configuration, e.g. 'glue/sst2'.
    features: what an example must have.
    data_dir: where TFDS keeps its data; None is TFDS' default.

  Raises:
    ValueError: no or unknown name, not prepared, or without such features.
  """
  if not name:
    raise ValueError(
      'There is no data: give local files by data.path, or the name of a data '
      'set of TFDS by data.corpus.'
    )
  import tensorflow_datasets  # slow, and the other sources do not need it

  try:
    found = tensorflow_datasets.builder(
      name, data_dir=data_dir, file_format='array_record'
    )
  except Exception as error:  # its own and many others
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


def how(name, data_dir=None):
  """What a user does about a data set or split that is not there."""
  return (
    'Prepare it once (it downloads): python -c "import tensorflow_datasets as '
    f"t; t.builder('{name}', data_dir={data_dir!r}, "
    "file_format='array_record').download_and_prepare()\"; or give local files "
    'by data.path.'
  )
