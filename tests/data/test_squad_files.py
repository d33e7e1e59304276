# SPDX-License-Identifier: Apache-2.0
"""Every layout of questions is read; every bad input is one clear line."""

import gzip
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from collab.data.readers import squad_files
from collab.data.splits import SPLITS
from tests.data.test_sources import refused

CONTEXT = 'Zürich \U0001f600 has the the cat.'


def question(name='q', text='Who?', **changes):
  answer = dict(text='the cat', answer_start=17)
  return dict(id=name, question=text, answers=[answer]) | changes


def article(*qas, context=CONTEXT):
  return dict(title='t', paragraphs=[dict(context=context, qas=list(qas))])


def file(*articles):
  return json.dumps(dict(version='1.1', data=list(articles))).encode()


@pytest.fixture
def write(tmp_path):
  """Writes files of the folder from a dict."""

  def write(files):
    for name, content in files.items():
      pack = gzip.compress if name.endswith('.gz') else bytes
      (tmp_path / name).write_bytes(pack(content))
    return tmp_path

  return write


def ids(source, split):
  return [q.id for q in source.read(split)]


def test_published_layout(write):
  none = question('n', answers=[], is_impossible=True)
  none |= dict(plausible_answers=[dict(text='cat', answer_start=21)])
  folder = write(
    {
      'train-v1.1.json': file(article(question('a'), question('b'))),
      'dev-v1.1.json.gz': file(article(question('c'))),
      'train-v2.0.json.gz': file(article(question('d'), none)),
      'dev-v2.0.json': b'\xef\xbb\xbf' + file(article(none)),
      'readme.txt': b'',
    }
  )
  one = squad_files.local(folder, 'v1.1')
  assert ids(one, 'train') == ['a', 'b']
  assert ids(one, 'val') == ids(one, 'test') == ['c']
  assert one.read('val') == [
    squad_files.Question('c', CONTEXT, 'Who?', ('the cat',), (17,))
  ]
  two = squad_files.local(str(folder), 'v2.0')
  assert ids(two, 'train') == ['d', 'n']
  assert two.read('test')[0][2:] == ('Who?', (), ())


def test_several_answers_and_articles(write):
  answers = [dict(text=t, answer_start=CONTEXT.index(t)) for t in ('cat', 'Zü')]
  rows = [article(question('a', answers=answers)), article(question('b'))]
  folder = write({'train.json': file(*rows), 'val.json': file(article())})
  source = squad_files.local(folder, 'v1.1')
  first, second = source.read('train')
  assert first[3:] == (('cat', 'Zü'), (21, 0))
  assert second.id == 'b'
  refused(
    f"{folder}: the split 'val' has no questions.", lambda: source.read('val')
  )
  refused("the split 'val' has no questions.", lambda: source.read('test'))


@pytest.mark.parametrize('files', [(), ('all=xquad.en.json',)])
def test_one_file_is_split_by_articles(write, files):
  rows = [article(question(f'{i}.0'), question(f'{i}.1')) for i in range(23)]
  folder = write({'xquad.en.json': file(*rows)})
  source = squad_files.local(folder, 'v1.1', files)
  found = {split: ids(source, split) for split in SPLITS}
  assert found['val'] == ['8.0', '8.1', '18.0', '18.1']
  assert found['test'] == ['9.0', '9.1', '19.0', '19.1']
  assert len(found['train']) == 2 * 19
  assert len(set().union(*found.values())) == 2 * 23
  few = squad_files.local(
    write({'xquad.en.json': file(*rows[:5])}), 'v1.1', files
  )
  refused("split 'val' has no questions", lambda: few.read('val'))


def test_named_files(write):
  folder = write(
    {x: file(article(question(x[0]))) for x in ('a.json', 'b.json', 'c.json')}
  )
  source = squad_files.local(
    folder, 'v1.1', ('val=a.json', 'train=b.json', 'test=c.json')
  )
  assert [ids(source, s) for s in SPLITS] == [['b'], ['a'], ['c']]
  lone = squad_files.local(folder, 'v1.1', ('train=a.json',))
  refused(
    "no split 'val', only train. Expected: train-v1.1.json",
    lambda: lone.read('val'),
  )


def test_missing(write, tmp_path):
  def local(version='v1.1', files=()):
    return squad_files.local(tmp_path, version, files)

  refused(
    'nowhere does not exist. Expected: train-v1.1.json and dev-v1.1.json',
    lambda: squad_files.local(tmp_path / 'nowhere', 'v1.1'),
  )
  refused("data.version='1.1'; there are v1.1, v2.0", lambda: local('1.1'))
  refused('has no questions. Expected: train-v2.0.json', lambda: local('v2.0'))
  write(dict.fromkeys(('train-a.json', 'train-b.json', 'x.json'), b''))
  refused(
    '2 candidates for train, expected one: train-a.json; train-b.json. Choose '
    'by data.files=("train=train-a.json"',
    local,
  )
  for files, message in (
    (
      ('train',),
      "has 'train', expected SPLIT=FILE with SPLIT one of ... val, test, all.",
    ),
    (('dev=x.json',), "has 'dev=x.json', expected SPLIT=FILE"),
    (('val=y.json',), "'val=y.json': no file"),
    (('val=x.json', 'val=x.json'), "data.files names 'val' twice"),
    (('val=x.json', 'all=train-a.json'), "data.files names 'all' and others"),
    (('all=train-a.json', 'val=x.json'), "data.files names 'all' and others"),
  ):
    refused(message, lambda files=files: local(files=files))


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'train.json is no JSON: Expecting value: line 1 column 1'),
    (b'{"data": [\n{"para', 'no JSON: Unterminated string starting at: line 2'),
    (b'{"data": [\n"\xff"]}', 'train.json, line 2: invalid UTF-8'),
    (b'[]', 'train.json holds a list, expected {...}.'),
    (b'{"dat": 1, "b": 2}', "is damaged: expected 'data', got dat, b."),
    (b'{"data": {}}', 'train.json is damaged: data is {}, expected list.'),
    (file({}), "train.json: expected 'paragraphs', got ."),
    (
      file(dict(paragraphs=[dict(context='x')])),
      "train.json: expected 'qas', got context.",
    ),
    (
      file(dict(paragraphs=[dict(qas=[])])),
      "train.json: expected 'context', got qas.",
    ),
    (
      file(article(dict(question='x'))),
      "train.json: expected 'id', got question.",
    ),
    (
      file(article(dict(id='q7', answers=[]))),
      "train.json: question q7: expected 'question', got id, answers.",
    ),
    (
      file(article(dict(id='q7', question='x'))),
      "train.json: question q7: expected 'answers', got id, question.",
    ),
    (
      file(article(question('q7', answers=[dict(text='cat')]))),
      "train.json: question q7: expected 'answer_start', got text.",
    ),
    (
      file(article(question('q7', 3))),
      'train.json: question q7: question is 3, expected str.',
    ),
    (
      file(
        article(question('q7', answers=[dict(text='cat', answer_start='21')]))
      ),
      "train.json: question q7: answer_start is '21', expected int.",
    ),
    (
      file(article(question('q7', answers=[]))),
      'train.json: question q7: it has no answer; only v2.0 has such '
      'questions.',
    ),
    (
      file(article(question('q7'), context=' \n')),
      'train.json: question q7: its paragraph is empty.',
    ),
    (
      file(article(question('q7', '\ud83d?'))),
      'train.json: question q7: question has half a surrogate pair',
    ),
  ],
)
def test_damaged_files(write, content, message):
  folder = write({'train.json': content})
  source = squad_files.local(folder, 'v1.1')
  refused(message, lambda: source.read('train'))


@pytest.mark.parametrize(
  'text, start, there',
  [
    ('the cat', 16, ' the ca'),
    ('the cat', 20, ' cat.'),
    ('the cat', 99, ''),
    ('the cat', -8, 'Zürich '),
    ('The cat', 17, 'the cat'),
    ('', 3, ''),
    (' ', 6, ' '),
  ],
)
def test_wrong_place(write, text, start, there):
  answers = [dict(text=text, answer_start=start)]
  folder = write({'dev.json': file(article(question('q7', answers=answers)))})
  refused(
    f'dev.json: question q7: answer_start is {start}, where the paragraph has '
    f'{there!r}; expected {text!r}.',
    lambda: squad_files.local(folder, 'v1.1').read('val'),
  )


@pytest.mark.parametrize('keep', [-5, 30, 0, 5])
def test_damaged_gzip(write, keep):
  rows = [article(question(f'{i * i}')) for i in range(500)]
  folder = write({'train.json.gz': file(*rows)})
  path = folder / 'train.json.gz'
  whole = path.read_bytes()
  path.write_bytes(whole[:keep] if keep else b'not gzip')
  source = squad_files.local(folder, 'v1.1')
  refused('train.json.gz: damaged', lambda: source.read('train'))


class TinySquad(tfds.core.GeneratorBasedBuilder):
  """A TFDS data set like squad, but for its size."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name='v1.1'),
    tfds.core.BuilderConfig(name='v2.0'),
  )

  def _info(self):
    text = tfds.features.Text()
    answers = tfds.features.Sequence(dict(text=text, answer_start=np.int32))
    features = dict(id=np.str_, context=text, question=text, answers=answers)
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return dict(
      train=self._generate_examples('ab'),
      validation=self._generate_examples('c'),
    )

  def _generate_examples(self, names):
    for name in names:
      found = dict(text=['the cat', 'cat'], answer_start=[17, 21])
      if self.builder_config.name == 'v2.0':
        found = dict(text=[], answer_start=[])
      yield name, dict(id=name, context=CONTEXT, question='?', answers=found)


@pytest.mark.parametrize('version', squad_files.VERSIONS)
@pytest.mark.usefixtures('prepared_here')
def test_tfds(tmp_path, version):
  refused(
    f'tiny_squad/{version} is not prepared ... data.path',
    lambda: squad_files.tfds('tiny_squad', version),
  )
  tfds.builder(
    f'tiny_squad/{version}', data_dir=tmp_path, file_format='array_record'
  ).download_and_prepare()
  source = squad_files.tfds('tiny_squad', version)
  assert sorted(ids(source, 'train')) == ['a', 'b']
  found = {'v1.1': (('the cat', 'cat'), (17, 21)), 'v2.0': ((), ())}
  assert source.read('test') == [
    squad_files.Question('c', CONTEXT, '?', *found[version])
  ]
  refused('there are v1.1, v2.0', lambda: squad_files.tfds('tiny_squad', 'v3'))
