# SPDX-License-Identifier: Apache-2.0
"""Every layout is read, and every bad input is one clear line."""

import gzip
import re

import pytest
import tensorflow_datasets as tfds

from collab.data.readers import sources

PAIRS = [('one', 'eins'), ('two', 'zwei'), ('three', 'drei')]


def text(side, pairs=PAIRS):
  return ''.join(f'{pair[side]}\n' for pair in pairs).encode()


@pytest.fixture
def write(tmp_path):
  """Writes files of the folder from keywords, '__' for '.'."""

  def write(**files):
    for name, content in files.items():
      name = name.replace('__', '.')
      pack = gzip.compress if name.endswith('.gz') else bytes
      (tmp_path / name).write_bytes(pack(content))
    return tmp_path

  return write


def categories(corpus, split):
  return [row[2] for row in corpus.rows(split)]


def refused(message, action):
  """action() raises one line that has all words of the message, in order."""
  words = message.split(' ... ')
  with pytest.raises(ValueError, match=re.escape(words[0])) as error:
    action()
  line, at = str(error.value), 0
  assert '\n' not in line
  for word in words:
    assert word in line[at:], f'{word!r} is not in {line[at:]!r}'
    at = line.index(word, at) + len(word)


def test_two_files_a_split(write):
  folder = write(
    train__en=text(0),
    train__de=text(1),
    dev__en__gz=text(0, PAIRS[:2]),
    dev__de__gz=text(1, PAIRS[:2]),
    test_2016_flickr__en=text(0, PAIRS[2:]),
    test_2016_flickr__de=text(1, PAIRS[2:]),
    newstest_dev__en=b'not looked at',
    README=b'nor is this',
  )
  corpus = sources.parallel(folder, 'en', 'de')
  assert tuple(corpus.readers) == ('train', 'val', 'test')
  assert list(corpus.pairs('train')) == PAIRS
  assert list(corpus.pairs('train')) == PAIRS  # and once more
  assert list(corpus.pairs('val')) == PAIRS[:2]
  assert list(corpus.pairs('test')) == PAIRS[2:]
  assert categories(corpus, 'test') == ['']
  back = sources.parallel(str(folder), 'de', 'en')
  assert list(back.pairs('test')) == [('drei', 'three')]
  assert back.fingerprint != corpus.fingerprint


@pytest.mark.parametrize('name', ['valid', 'val', 'dev', 'validation'])
@pytest.mark.parametrize('ending', ['', '__gz'])
def test_tsv(write, name, ending):
  rows = b'one\teins\tbook\ntwo\tzwei\nthree\tdrei\tcup\n'
  folder = write(**{f'{name}__tsv{ending}': rows})
  corpus = sources.parallel(folder, 'en', 'de')
  assert tuple(corpus.readers) == ('val',)
  assert list(corpus.pairs('val')) == PAIRS
  assert categories(corpus, 'val') == ['book', '', 'cup']


def test_named_files(write):
  folder = write(
    newstest_dev__en=text(0), newstest_dev__de=text(1), t__tsv=b'a\tb\n'
  )
  corpus = sources.parallel(
    folder,
    'en',
    'de',
    ('test=t.tsv', 'train=newstest_dev.en,newstest_dev.de'),
  )
  assert tuple(corpus.readers) == ('train', 'test')
  assert list(corpus.pairs('train')) == PAIRS
  assert list(corpus.pairs('test')) == [('a', 'b')]


def test_only_newline_ends_a_line(write):
  lines = '\ufeffa\u2028b\r\nc\x0bd\x85e\r\nf'.encode()
  folder = write(train__en=lines, train__de=b'1\n2\n3\n')
  pairs = list(sources.parallel(folder, 'en', 'de').pairs('train'))
  assert pairs == [('a\u2028b', '1'), ('c\x0bd\x85e', '2'), ('f', '3')]


def test_empty_lines_are_dropped_and_counted(write):
  folder = write(
    train__en=b'a\n\n  \nd\n',
    train__de=b'1\n2\n\n\n',
    dev__tsv=b'\n\tx\na\tb\n',
  )
  corpus = sources.parallel(folder, 'en', 'de')
  assert corpus.describe()['empty_lines_dropped'] == {}
  assert list(corpus.pairs('train')) == [('a', '1')]
  assert list(corpus.pairs('val')) == [('a', 'b')]
  told = corpus.describe()
  assert told['empty_lines_dropped'] == {
    'train.en': 2,
    'train.de': 2,
    'dev.tsv': 2,
  }
  assert told['files'] == {
    'train': {'train.en': 8, 'train.de': 6},
    'val': {'dev.tsv': 8},
  }


def test_fingerprint_follows_the_files(write):
  folder = write(train__en=text(0), train__de=text(1))
  before = sources.parallel(folder, 'en', 'de').fingerprint
  assert sources.parallel(folder, 'en', 'de').fingerprint == before
  write(train__de=text(1) + b'vier\n')
  assert sources.parallel(folder, 'en', 'de').fingerprint != before


def test_missing(write, tmp_path):
  def corpus():
    return sources.parallel(tmp_path, 'en', 'de')

  refused(
    'nowhere does not exist. Expected: train.en and train.de ... train.tsv',
    lambda: sources.parallel(tmp_path / 'nowhere', 'en', 'de'),
  )
  refused('no parallel text. Expected: train.en ... There: nothing', corpus)
  write(other=b'')
  refused('no parallel text. Expected: train.en ... There: other.', corpus)
  write(train__en=text(0))
  refused('has train.en, but no train.de', corpus)
  write(train__de=text(1))
  refused(
    "no split 'test', only train. Expected: ... test.* ... There: other, train",
    lambda: corpus().pairs('test'),
  )
  refused(
    "data.source and data.target are both 'en'",
    lambda: sources.parallel(tmp_path, 'en', 'en'),
  )
  write(train__en__gz=text(0))
  refused('both train.en and train.en.gz', corpus)


def test_several_candidates(write):
  folder = write(test_a__en=b'', test_a__de=b'', test_b__en=b'', test_b__de=b'')
  refused(
    '2 candidates for test, expected one: test_a.en and test_a.de; test_b.en '
    '... data.files=("test=test_a.en,test_a.de"',
    lambda: sources.parallel(folder, 'en', 'de'),
  )


@pytest.mark.parametrize(
  'files, message',
  [
    (('train=a.en,b.de',), "'train=a.en,b.de': no file ... There: a.en"),
    (
      ('training=a.en,a.en',),
      'expected SPLIT=SOURCE_FILE ... train, val, test',
    ),
    (('train',), 'expected SPLIT=SOURCE_FILE'),
    (('train=a,b,c',), 'expected SPLIT=SOURCE_FILE'),
    (('val=a.en', 'val=a.en'), "names 'val' twice"),
    (('val=a.en', 'test=a.en'), 'a.en twice'),
    (('val=a.en,./a.en',), 'a.en twice'),
  ],
)
def test_wrong_names(write, files, message):
  folder = write(a__en=b'')
  refused(message, lambda: sources.parallel(folder, 'en', 'de', files))


@pytest.mark.parametrize('lines', [(2, 3), (3, 2), (0, 3), (3, 0), (1, 3)])
def test_different_length(write, lines):
  n, m = lines
  folder = write(train__en=text(0, PAIRS[:n]), train__de=text(1, PAIRS[:m]))
  corpus = sources.parallel(folder, 'en', 'de')
  refused(
    f'train.en has {n} lines and ... train.de {m} ... line {min(n, m) + 1} has',
    lambda: list(corpus.pairs('train')),
  )


def test_invalid_utf8(write):
  folder = write(train__en=text(0), train__de=b'eins\nzw\xe9i\ndrei\n')
  corpus = sources.parallel(folder, 'en', 'de')
  refused(
    'train.de, line 2: invalid UTF-8 (byte 3 of the line is 0xe9)',
    lambda: list(corpus.pairs('train')),
  )


@pytest.mark.parametrize('keep', [-5, 30, 0, 5])
def test_damaged_gzip(write, keep):
  lines = b''.join(b'%d\n' % (i * i) for i in range(20_000))
  folder = write(train__en__gz=lines, train__de=lines)
  file = folder / 'train.en.gz'
  whole = file.read_bytes()
  file.write_bytes(whole[:keep] if keep else b'not gzip')
  corpus = sources.parallel(folder, 'en', 'de')
  refused('train.en.gz: damaged', lambda: list(corpus.pairs('train')))


@pytest.mark.parametrize('content', ['', '\ufeff', '\n', ' \r\n\n'])
def test_a_split_without_pairs_names_its_files(write, content):
  content = content.encode()
  folder = write(train__en=content, train__de=content, val__tsv=content)
  corpus = sources.parallel(folder, 'en', 'de')
  for split, files in dict(
    train='train.en and train.de', val='val.tsv'
  ).items():
    refused(
      f'the split {split} has no pairs ({files})',
      lambda s=split: list(corpus.rows(s)),
    )


def test_sides_of_different_length_count_lines_of_one_definition(write):
  folder = write(
    train__en='a\u2028b\r\nc\x0cd\n'.encode(), train__de=b'a\x85b\nc\x1cd'
  )
  refused('invalid UTF-8', lambda: list(parallel(folder).pairs('train')))
  (folder / 'train.de').write_bytes('a\x85b\nc\x1cd'.encode())
  wanted = [('a\u2028b', 'a\x85b'), ('c\x0cd', 'c\x1cd')]
  assert list(parallel(folder).pairs('train')) == wanted


def parallel(folder):
  return sources.parallel(folder, 'en', 'de')


@pytest.mark.parametrize('row, count', [('alone', 1), ('a\tb\tc\td', 4)])
def test_wrong_columns(write, row, count):
  folder = write(train__tsv=f'a\tb\n{row}\n'.encode())
  corpus = sources.parallel(folder, 'en', 'de')
  refused(
    f'train.tsv, line 2: {count} columns, expected 2',
    lambda: list(corpus.pairs('train')),
  )


TWO_LINES = 'two\nlines', 'zwei\u2028Zeilen\r\n'


class TinyTranslate(tfds.core.GeneratorBasedBuilder):
  """A TFDS data set like wmt14_translate, but for its size."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = (tfds.core.BuilderConfig(name='de-en'),)

  def _info(self):
    features = tfds.features.Translation(languages=('de', 'en'))
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, dl_manager):
    rows = [dict(en=en, de=de) for en, de in [*PAIRS, ('', 'leer'), TWO_LINES]]
    return dict(
      train=self._generate_examples(rows),
      validation=self._generate_examples(rows[:1]),
    )

  def _generate_examples(self, rows):
    yield from enumerate(rows)


@pytest.mark.usefixtures('prepared_here')
def test_tfds(tmp_path):
  name = 'tiny_translate/de-en'
  refused(
    'is not prepared ... Prepare it once ... download_and_prepare() ... '
    'data.path',
    lambda: sources.tfds(name, 'en', 'de'),
  )
  tfds.builder(
    name, data_dir=tmp_path, file_format='array_record'
  ).download_and_prepare()
  corpus = sources.tfds(name, 'en', 'de')
  assert tuple(corpus.readers) == ('train', 'val')
  two_lines = 'two lines', 'zwei\u2028Zeilen'
  assert sorted(corpus.pairs('train')) == sorted([*PAIRS, two_lines])
  assert list(corpus.pairs('val')) == PAIRS[:1]
  assert corpus.describe()['empty_lines_dropped'] == {
    'tiny_translate/de-en:train': 1,
    'tiny_translate/de-en:validation': 0,
  }
  back = sources.tfds(name, 'de', 'en')
  assert list(back.pairs('val')) == [('eins', 'one')]
  assert back.fingerprint != corpus.fingerprint
  refused('has de, en; got', lambda: sources.tfds(name, 'en', 'fr'))
  refused("no split 'test', only", lambda: corpus.pairs('test'))


@pytest.mark.usefixtures('prepared_here')
def test_tfds_names():
  refused("cannot open 'nope'", lambda: sources.tfds('nope', 'en', 'de'))
  refused(
    'wmt14_translate/de-en is not prepared',
    lambda: sources.tfds('wmt14_translate/de-en', 'en', 'de'),
  )
