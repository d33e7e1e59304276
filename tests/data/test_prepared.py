# SPDX-License-Identifier: Apache-2.0
"""Folders of TFDS that others have made are data."""

import json
import shlex
import sys

import pytest

from collab.data.readers import prepared

TENSOR = {
  'pythonClassName': 'tensorflow_datasets.core.features.scalar.Scalar',
  'tensor': {'shape': {}, 'dtype': 'int64', 'encoding': 'none'},
}
FOREIGN = {'pythonClassName': 'stranger.Feature', 'jsonFeature': {'json': '{}'}}


def write(folder, feature, **others):
  """A data set without examples, of one feature x."""
  place = folder / 'theirs' / '1.0.0'
  place.mkdir(parents=True)
  (folder / 'stranger.py').write_text('raise SystemExit("it ran")')
  (place / 'dataset_info.json').write_text(
    json.dumps(
      dict(name='theirs', version='1.0.0', fileFormat='array_record')
      | dict(splits=[dict(name='train', shardLengths=['0'], numBytes='0')])
    )
  )
  features = {
    'pythonClassName': (
      'tensorflow_datasets.core.features.features_dict.FeaturesDict'
    ),
    'featuresDict': {'features': {'x': feature}},
  }
  (place / 'features.json').write_text(json.dumps(features | others))


def test_folder_of_tfds_is_read(tmp_path):
  write(tmp_path, TENSOR)
  found = prepared.builder('theirs', ('x',), str(tmp_path))
  assert list(found.info.features) == ['x']


@pytest.mark.parametrize(
  'feature, others',
  [
    (FOREIGN, {}),
    (TENSOR, {'pythonClassName': 'stranger.Feature'}),
    (
      {
        'pythonClassName': (
          'tensorflow_datasets.core.features.sequence_feature.Sequence'
        ),
        'sequence': {'feature': FOREIGN, 'length': '-1'},
      },
      {},
    ),
    (TENSOR, {'type': 'stranger.Feature', 'content': {}}),
    (TENSOR, {'type': 'this.s', 'content': {}}),
  ],
)
def test_no_code_of_a_folder_of_tfds_runs(
  feature, others, tmp_path, monkeypatch
):
  """Not even where it could be imported: the working directory, for one."""
  write(tmp_path, feature, **others)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=r'names \S+, which is none of TFDS'):
    prepared.builder('theirs', data_dir=str(tmp_path))
  assert 'stranger' not in sys.modules


def test_no_code_is_fetched():
  with pytest.raises(ValueError, match='in a namespace'):
    prepared.builder('someone:theirs')


def test_printed_command_is_quoted():
  name = 'x$(touch a)`b`"\''
  words = shlex.split(prepared.how(name).split(': ', 1)[1].split('; or')[0])
  assert words[:2] == ['python', '-c']
  assert repr(name) in words[2]
