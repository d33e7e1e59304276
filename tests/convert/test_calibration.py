# SPDX-License-Identifier: Apache-2.0
"""The training data of a run that may be a stranger's, as inputs to look at."""

import json

import numpy as np
from PIL import Image
import pytest

from collab.convert import calibration, source
from collab.convert.huggingface.checkpoints import Pretrained
from collab.model_json import Meaning
from collab.runtime import workdir
from configs import lm
from tests import tiny
from tests.convert import checkpoints
from tests.convert.test_main import marian


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


# Images, and pairs of files --------------------------------------------------

PROCESSOR = dict(image_mean=[0.5, 0.25, 0.0], image_std=[0.5, 0.25, 1.0])


def vit(files):
  """A ViT of 8 pixels as `source.read` has it, without parameters."""
  attention = dict(name='mha', num_heads=2)
  model = dict(name='vit', image_size=8, patch=4, channels=3, dim=4, outputs=0)
  model |= dict(num_layers=1, mlp_dim=4, attention=attention)
  files = {name: json.dumps(x).encode() for name, x in files.items()}
  pretrained = Pretrained(model, {}, {}, '', {}, files=files)
  return source.Source('vit', None, model, {}, Meaning(), '', pretrained)


@pytest.fixture
def pictures(tmp_path):
  """Images of one colour each, in a folder and in one within it."""
  (tmp_path / 'pictures' / 'more').mkdir(parents=True)
  for i, name in enumerate(('a.png', 'more/b.JPG', 'more/c.png')):
    colour = Image.new('RGB', (9 + i, 12), (255, 51 * i, 0))
    colour.save(tmp_path / 'pictures' / name, quality=95)
  (tmp_path / 'pictures' / 'note.txt').write_text('no image')
  return tmp_path / 'pictures'


def test_images_are_normalised_as_the_checkpoint_says(pictures):
  seen = calibration.read(vit({calibration.PROCESSOR: PROCESSOR}), pictures)
  (batch,) = seen.batches
  assert batch['images'].shape == (3, 8, 8, 3)
  colours = batch['images'].mean((1, 2))
  want = [[1, 4 * (i / 5) - 1, 0] for i in range(3)]
  got = colours[np.argsort(colours[:, 1])]
  np.testing.assert_allclose(got, want, atol=0.05)
  assert batch.keys() == seen.model.example().keys()


def test_images_that_cannot_be_read(pictures, tmp_path):
  with pytest.raises(ValueError, match=r'^vit has no preprocessor_conf'):
    calibration.read(vit({}), pictures)
  known = vit({calibration.PROCESSOR: PROCESSOR})
  (pictures / 'a.png').write_bytes(b'no')
  with pytest.raises(ValueError, match=r'a\.png does not decode: '):
    calibration.read(known, pictures)
  with pytest.raises(ValueError, match='note has no images'):
    calibration.read(known, tmp_path / 'note')


@pytest.fixture
def translator(tmp_path):
  return source.read(marian(tmp_path / 'marian'))


def test_pairs_of_two_files_or_of_one(translator, tmp_path):
  for name, text in dict(x='a b\n\nc d e f g\n', y='b\na\nh\n').items():
    (tmp_path / name).write_text(text)
  path = f'{tmp_path / "x"},{tmp_path / "y"}'
  seen = calibration.read(translator, path, length=5)
  (batch,) = seen.batches
  assert batch['source'].tolist()[0] == [3, 4, 0, 0, 0]
  assert batch['source_segments'].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
  assert batch['source'].tolist()[1][4] == 0  # cut, with its </s>
  assert batch['target_inputs'][:, :2].tolist() == [[36, 4], [36, 10]]
  assert batch.keys() == seen.model.example().keys()
  tsv = tmp_path / 'pairs.tsv'
  tsv.write_text('a b\tb\nc d e f g\th\n')
  (again,) = calibration.read(translator, tsv, length=5).batches
  for name, x in batch.items():
    np.testing.assert_array_equal(again[name], x)
  with pytest.raises(ValueError, match='expected SOURCE,TARGET or a'):
    calibration.read(translator, f'{path},{path}')


def test_batches_have_fewer_rows_where_these_are_long(
  translator, tmp_path, monkeypatch
):
  (tmp_path / 'en-de.tsv').write_text('a b\tc d\n' * 40)
  path = tmp_path / 'en-de.tsv'
  assert translator.model['max_length'] > 11
  monkeypatch.setattr(calibration, 'TOKENS', 10)
  for length, rows in (2, 5), (3, 3), (11, 1):
    batches = calibration.read(translator, path, length=length).batches
    assert {len(batch['source']) for batch in batches} == {rows}


def test_positions_that_begin_at_two(tmp_path):
  """RoBERTa's table has two rows that no token has: texts are cut earlier."""
  folder = checkpoints.with_words(tmp_path / 'roberta', 'roberta_Model')
  found = source.read(folder)
  (tmp_path / 'text').write_text('one ' * 50)
  (batch,) = calibration.read(found, tmp_path / 'text').batches
  rows = found.params['positions']['embedding'].shape[0]
  assert batch['tokens'].shape[1] == rows - found.model['first_position']
  assert found.model['first_position'] > 0
