# SPDX-License-Identifier: Apache-2.0
"""The training data of a run that may be a stranger's, as inputs to look at."""

import pytest

from collab.convert import calibration, source
from collab.model_json import Meaning
from collab.runtime import workdir
from configs import lm
from tests import tiny


@pytest.fixture
def planted(tmp_path):
  """A workdir that names folders elsewhere, as `source.read` has it."""
  tiny.write_text(tmp_path / 'text')
  config = lm.get_config('sample')
  changes = tiny.SMALL_LM | {
    'data.path': str(tmp_path / 'text'),
    'data.folder': str(tmp_path / 'elsewhere'),
    'data.vocabulary': str(tmp_path / 'no.json'),
  }
  config.update_from_flattened_dict(changes)
  folder = tmp_path / 'run'
  workdir.claim(config.lock(), folder)
  model = config.model.to_dict() | dict(vocab_size=300)
  meaning = Meaning()
  return source.Source(str(folder), config, model, {}, meaning, '', None)


def test_data_are_where_the_user_says(planted, tmp_path):
  with pytest.raises(ValueError, match=r'on local files: .* --data=DIR'):
    calibration.read(planted, calibration.TRAIN, rows=1)
  (tmp_path / 'text').rename(tmp_path / 'mine')
  before = {*tmp_path.iterdir()}
  found = planted._replace(data=str(tmp_path / 'mine'))
  seen = calibration.read(found, calibration.TRAIN, rows=1)
  assert seen.batches[0]['tokens'].shape == (8, 16)
  assert {*tmp_path.iterdir()} == before


def test_data_are_not_written_through_a_link(planted, tmp_path):
  (tmp_path / 'run' / 'data').symlink_to(tmp_path / 'outside')
  found = planted._replace(data=str(tmp_path / 'text'))
  with pytest.raises(ValueError, match=r'run/data is a link to .*outside'):
    calibration.read(found, calibration.TRAIN, rows=1)
  assert not (tmp_path / 'outside').exists()
