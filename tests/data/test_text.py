# SPDX-License-Identifier: Apache-2.0
"""Running text: splits, what counts as a word, and what cannot be read."""

import gzip
from itertools import chain

import numpy as np
import pytest
import tensorflow_datasets as tfds

from collab.data import tokenizer_training
from collab.data.readers import text
from collab.data.splits import SPLITS

LINES = ['', ' = One = ', '', ' two three two ', 'four']


def write(folder, **names):
  for name, lines in names.items():
    path = folder / name.replace('__', '.')
    content = ''.join(f'{line}\n' for line in lines).encode()
    path.write_bytes(
      gzip.compress(content) if path.suffix == '.gz' else content
    )
  return str(folder)


@pytest.mark.parametrize(
  'names',
  [
    ('wiki__train__raw', 'wiki__valid__raw', 'wiki__test__raw'),
    ('wiki__train__raw__gz', 'wiki__valid__raw__gz', 'wiki__test__raw__gz'),
    ('ptb__train__txt', 'ptb__valid__txt', 'ptb__test__txt'),
    ('train__txt', 'dev__txt', 'test__txt'),
  ],
)
def test_published_names(names, tmp_path):
  contents = [LINES, LINES[1:], LINES[:2]]
  path = write(tmp_path, **dict(zip(names, contents, strict=True)))
  found = text.read('', path)
  for split, lines in zip(SPLITS, contents, strict=True):
    assert list(found.lines(split)) == lines


def test_stream(tmp_path):
  """Ids of each line and <eos>; a word ends at a blank or a line's end."""
  names = ('wiki__train__raw', 'wiki__valid__raw', 'wiki__test__raw')
  path = write(tmp_path, **dict.fromkeys(names, LINES))
  found = text.read('', path)
  words = tokenizer_training.train(
    found.lines('train'), 280, tmp_path / 't.json'
  )
  got = text.stream(found, 'train', words, tmp_path / 'cache')
  assert got.words == 7 + len(LINES)
  assert got.characters == sum(len(line.strip()) + 1 for line in LINES)
  want = [i for x in LINES for i in [*words.encode(x.strip()), words.eos_id]]
  np.testing.assert_array_equal(got.tokens, want)
  again = text.stream(found, 'train', words, tmp_path / 'cache')
  np.testing.assert_array_equal(again.tokens, want)
  assert len(list((tmp_path / 'cache').iterdir())) == 1


def test_files_that_name_no_split(tmp_path):
  """A checksum of the line decides; nothing is lost and nothing twice."""
  lines = [f'line {i}' for i in range(997)]
  path = write(tmp_path, a__TXT=lines[:500], b__txt__gz=lines[500:])
  write(tmp_path, __hidden__txt=['hidden'] * 999)
  found = text.read('', path)
  parts = {split: list(found.lines(split)) for split in SPLITS}
  assert sorted(chain(*parts.values())) == sorted(lines)
  assert 0 < len(parts['val']) < 30
  assert 0 < len(parts['test']) < 30


@pytest.mark.parametrize(
  'names',
  [('a__txt', 'b__txt'), ('train__txt', 'val__txt', 'test__txt')],
)
def test_what_is_not_read_is_named(names, tmp_path):
  (tmp_path / 'more').mkdir()
  write(tmp_path / 'more', c__txt=LINES)
  write(tmp_path, **dict.fromkeys((*names, 'notes__md', '__hidden'), LINES))
  assert text.read('', str(tmp_path)).not_read == ('more/', 'notes.md')


class TinyText(tfds.core.GeneratorBasedBuilder):
  """A TFDS data set like lm1b, but for its size and its odd lines."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features.FeaturesDict(dict(text=tfds.features.Text()))
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, dl_manager):
    splits = ('train', 'validation', 'test')
    return {split: self._generate_examples() for split in splits}

  def _generate_examples(self):
    yield 0, dict(text=ODD)


# Three lines; str.splitlines finds eight.
ODD = 'a\u2028b\x85c\r\n\nd\x0ce\x1cf\x0bg\n'


def test_lines_of_tfds_are_those_of_files(tmp_path, monkeypatch):
  builder = tfds.builder(
    'tiny_text', data_dir=tmp_path, file_format='array_record'
  )
  builder.download_and_prepare()
  monkeypatch.setattr(text.prepared, 'builder', lambda *_: builder)
  for split in SPLITS:
    (tmp_path / f'{split}.txt').write_bytes(ODD.encode())
  found = [text.read('tiny_text', ''), text.read('', str(tmp_path))]
  for split in SPLITS:
    one, two = (list(x.lines(split)) for x in found)
    assert one == two == ['a\u2028b\x85c', '', 'd\x0ce\x1cf\x0bg']


@pytest.mark.parametrize('content', ['', '\ufeff'])
def test_an_empty_file_is_named(content, tmp_path):
  path = write(tmp_path, train__txt=LINES, val__txt=LINES)
  empty = tmp_path / 'test.txt'
  empty.write_text(content, 'utf-8')
  found = text.read('', path)
  assert list(found.lines('train')) == LINES
  with pytest.raises(ValueError, match=f'{empty}: the split test is empty'):
    list(found.lines('test'))


def test_sample():
  """No sentence of the test is in training, though topics quote each other."""
  found = text.sample()
  parts = {
    split: {x.strip() for x in found.lines(split) if len(x.split()) >= 5}
    for split in SPLITS
  }
  train, val, test = (parts[split] for split in SPLITS)
  assert not train & (val | test)
  assert not val & test
  assert len(train) > 5 * len(test) > 100


@pytest.mark.parametrize(
  'names, words',
  [
    ({}, r'has no text\. Expected'),
    (dict(x__md=LINES), r'has no text\. Expected'),
    (dict(train__txt=LINES, test__txt=LINES), 'has nothing for val'),
    (
      dict(train__txt=LINES, train__raw=LINES, val__txt=LINES, test__txt=[]),
      r'train\.raw, train\.txt for train',
    ),
    (
      dict(train_valid_test__txt=LINES),
      r'train_valid_test\.txt names several splits: test, train, val\.',
    ),
  ],
)
def test_wrong_folders(names, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    text.read('', write(tmp_path, **names))


def test_no_folder(tmp_path):
  with pytest.raises(ValueError, match='nowhere does not exist'):
    text.read('', str(tmp_path / 'nowhere'))


def test_damaged_files(tmp_path):
  names = dict(train__txt__gz=LINES * 99, val__txt=LINES, test__txt=[])
  found = text.read('', write(tmp_path, **names))
  packed = tmp_path / 'train.txt.gz'
  packed.write_bytes(packed.read_bytes()[:-9])
  with pytest.raises(ValueError, match=r'train\.txt\.gz: damaged'):
    list(found.lines('train'))
  (tmp_path / 'val.txt').write_bytes(b'fine\nf\xfcnf\n')
  with pytest.raises(ValueError, match=r'val\.txt, line 2: invalid UTF-8'):
    list(found.lines('val'))
  words = tokenizer_training.train(iter(LINES), 270, tmp_path / 't.json')
  with pytest.raises(ValueError, match='the split test is empty'):
    text.stream(found, 'test', words, tmp_path / 'cache')
  assert not any((tmp_path / 'cache').iterdir())
