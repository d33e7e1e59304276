# SPDX-License-Identifier: Apache-2.0
"""GLUE's published files: what is read, and each kind of bad input."""

import gzip

import numpy as np
import pytest

from collab.data.examples import Example
from collab.data.readers import glue

# Folder and file -> lines as published; \t is as it stands there.
FILES = {
  'CoLA/train.tsv': ['gj04\t1\t\tHe "said so.', 'gj04\t0\t*\tSaid he so so'],
  'CoLA/dev.tsv': ['bc01\t1\t\tShe left'],
  'SST-2/train.tsv': ['sentence\tlabel', 'a fine film \t1', 'bad \t0'],
  'SST-2/dev.tsv': ['sentence\tlabel', 'so so \t0'],
  'MRPC/msr_paraphrase_train.txt': [
    '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String',
    '1\t7\t8\tHe "ran.\tHe did run.',
    '0\t9\t11\tHe ran.\tShe ran.',
  ],
  'MRPC/msr_paraphrase_test.txt': [
    '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String',
    '0\t17\t18\tIt rains.\tIt snows.',
  ],
  'QQP/train.tsv': [
    'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate',
    '1\t2\t3\tWhy?\tHow so?\t1',
  ],
  'QQP/dev.tsv': [
    'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate',
    '4\t5\t6\tWho?\tWhat?\t0',
  ],
  'STS-B/train.tsv': [
    'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t'
    'sentence2\tscore',
    '0\tg\tf\t2012\t01\tnone\tnone\tA cat.\tA dog.\t1.750',
  ],
  'STS-B/dev.tsv': [
    'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t'
    'sentence2\tscore',
    '0\tg\tf\t2012\t01\tnone\tnone\tA cat.\tThe cat.\t5.000',
  ],
  'MNLI/train.tsv': [
    'index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t'
    'sentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\t'
    'sentence2\tlabel1\tgold_label',
    '0\t1\t1n\tfiction\t(\t(\t(\t(\tHe ran.\tHe moved.\tneutral\tentailment',
  ],
  'MNLI/dev_matched.tsv': [
    'index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label',
    '0\tHe ran.\tHe sat.\tneutral\tneutral\tcontradiction',
  ],
  'MNLI/dev_mismatched.tsv': [
    'index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label',
    '0\tHe ran.\tHe won.\tneutral\tentailment\tneutral',
  ],
  'QNLI/train.tsv': [
    'index\tquestion\tsentence\tlabel',
    '0\tWho?\tHe did.\tentailment',
  ],
  'QNLI/dev.tsv': [
    'index\tquestion\tsentence\tlabel',
    '0\tWhen?\tHe did.\tnot_entailment',
  ],
  'RTE/train.tsv': [
    'index\tsentence1\tsentence2\tlabel',
    '0\tHe ran.\tHe did run.\tentailment',
  ],
  'RTE/dev.tsv': [
    'index\tsentence1\tsentence2\tlabel',
    '0\tHe ran.\tHe won.\tnot_entailment',
  ],
  'WNLI/train.tsv': ['index\tsentence1\tsentence2\tlabel', '0\tA.\tB.\t1'],
  'WNLI/dev.tsv': ['index\tsentence1\tsentence2\tlabel', '0\tA.\tC.\t0'],
}


def write(folder, files=FILES):
  for name, lines in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines), 'utf-8')
  return folder


@pytest.fixture
def published(tmp_path):
  return write(tmp_path)


def read(name, folder, part='train', **kwargs):
  return list(glue.local(name, folder, **kwargs).readers[part]())


def test_every_task(published):
  """Texts and labels as they stand there, quotes too; val and test are dev."""
  found = {}
  for name in glue.TABLES:
    parts = glue.local(name, published)
    assert parts.val == parts.test
    assert {'train', *parts.val.values()} == set(parts.readers)
    found[name] = {key: list(parts.readers[key]()) for key in parts.readers}
  assert found['cola']['train'] == [
    Example(('He "said so.',), 1),
    Example(('Said he so so',), 0),
  ]
  assert [e.texts for e in found['sst2']['train']] == [
    ('a fine film ',),
    ('bad ',),
  ]
  assert found['mrpc']['train'][0] == Example(('He "ran.', 'He did run.'), 1)
  assert found['mrpc']['dev'] == [Example(('It rains.', 'It snows.'), 0)]
  assert found['qqp']['train'] == [Example(('Why?', 'How so?'), 1)]
  assert found['stsb']['train'] == [Example(('A cat.', 'A dog.'), 1.75)]
  assert found['mnli'] == dict(
    train=[Example(('He ran.', 'He moved.'), 0)],
    dev_matched=[Example(('He ran.', 'He sat.'), 2)],
    dev_mismatched=[Example(('He ran.', 'He won.'), 1)],
  )
  assert glue.local('mnli', published).val == dict(
    m='dev_matched', mm='dev_mismatched'
  )
  assert found['qnli']['dev'] == [Example(('When?', 'He did.'), 1)]
  assert found['rte']['train'] == [Example(('He ran.', 'He did run.'), 0)]
  assert found['wnli']['dev'] == [Example(('A.', 'C.'), 0)]


def test_gzip_and_crlf(published):
  path = published / 'RTE/train.tsv'
  plain = read('rte', published)
  path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
  assert read('rte', published) == plain
  with gzip.open(f'{path}.gz', 'wb') as file:
    file.write(path.read_bytes())
  path.unlink()
  assert read('rte', published) == plain


def test_mrpc_as_glue_makes_it(published):
  """train.tsv and dev.tsv, if both are there, come first."""
  header, row, *_ = FILES['MRPC/msr_paraphrase_train.txt']
  write(published, {'MRPC/train.tsv': [header, row]})
  assert len(read('mrpc', published)) == 2
  write(published, {'MRPC/dev.tsv': [header, row, row, row]})
  assert len(read('mrpc', published)) == 1
  assert len(read('mrpc', published, 'dev')) == 3


@pytest.mark.parametrize(
  'name, file, change, words',
  [
    (
      'rte',
      'RTE/train.tsv',
      lambda x: x + b'1\tHe ran.\tentailment\n',
      ['line 3: 3 columns, expected 4', "malformed='skip'"],
    ),
    (
      'rte',
      'RTE/train.tsv',
      lambda x: x + b'\n' + b'1\tHe ran.\n',
      ['line 4: 2 columns, expected 4'],
    ),
    (
      'rte',
      'RTE/train.tsv',
      lambda x: x.replace(b'\tentailment', b'\t-'),
      ["line 2: the label is '-', that of no class", "malformed='skip'"],
    ),
    (
      'rte',
      'RTE/train.tsv',
      lambda x: x.replace(b'entailment', b'maybe'),
      ["line 2: the label is 'maybe', expected entailment, not_entailment."],
    ),
    (
      'cola',
      'CoLA/train.tsv',
      lambda x: x.replace(b'\t0\t', b'\t2\t'),
      ["line 2: the label is '2', expected 0, 1."],
    ),
    (
      'stsb',
      'STS-B/train.tsv',
      lambda x: x.replace(b'1.750', b'high'),
      ["line 2: the label is 'high', expected 0 to 5."],
    ),
    (
      'stsb',
      'STS-B/train.tsv',
      lambda x: x.replace(b'1.750', b'0_1'),
      ["line 2: the label is '0_1', expected 0 to 5."],
    ),
    (
      'stsb',
      'STS-B/train.tsv',
      lambda x: x.replace(b'1.750', '٣'.encode()),
      ["line 2: the label is '٣', expected 0 to 5."],
    ),
    (
      'stsb',
      'STS-B/train.tsv',
      lambda x: x.replace(b'1.750', b'nan'),
      ["line 2: the label is 'nan', expected 0 to 5."],
    ),
    (
      'sst2',
      'SST-2/train.tsv',
      lambda x: x.split(b'\n', 1)[1],
      ['line 1: the header is a fine film , 1; expected sentence, label in it'],
    ),
    (
      'sst2',
      'SST-2/train.tsv',
      lambda x: x.split(b'\n')[0],
      ['train.tsv has no examples'],
    ),
    ('sst2', 'SST-2/train.tsv', lambda x: b'', ['line 1: the header is']),
    ('cola', 'CoLA/train.tsv', lambda x: b'', ['train.tsv has no examples']),
    (
      'rte',
      'RTE/train.tsv',
      lambda x: x + b'1\t\xff\tb\tentailment\n',
      ['line 3: invalid UTF-8'],
    ),
  ],
)
def test_bad_input(published, name, file, change, words):
  path = published / file
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match='tsv') as info:
    read(name, published)
  for word in [str(path), *words]:
    assert word in str(info.value)
  assert '\n' not in str(info.value)


def test_rows_left_out(published):
  path = published / 'QQP/train.tsv'
  with path.open('a') as file:
    file.write('7\t8\t9\tcut\n10\t11\t12\tWhy?\tWhy not?\t0\n')
    file.write('13\t14\t15\tWho?\tWhat?\t-\n')
  parts = glue.local('qqp', published, 'skip')
  assert [e.label for e in parts.readers['train']()] == [1, 0]
  assert parts.skipped == {str(path): 2}
  with pytest.raises(ValueError, match=r"^data\.malformed='all'; there are fa"):
    glue.local('qqp', published, 'all')


@pytest.mark.parametrize('end', ['\n', '\r\n', '\n \n\n'])
def test_blank_lines_are_no_rows(published, end):
  whole = {name: read(name, published) for name in glue.TABLES}
  for path in published.rglob('*'):
    if path.is_file():
      with path.open('a', newline='') as file:
        file.write(end)
  for malformed in glue.MALFORMED:
    for name in glue.TABLES:
      parts = glue.local(name, published, malformed)
      assert list(parts.readers['train']()) == whole[name]
      assert not parts.skipped


def test_truncated_gzip(published):
  path = published / 'RTE/train.tsv'
  rng = np.random.default_rng(0)
  rows = [f'{i}\t{rng.random()}\tb\tentailment\n' for i in range(2000)]
  whole = gzip.compress(path.read_bytes() + ''.join(rows).encode())
  path.unlink()
  path = path.with_name('train.tsv.gz')
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(
    ValueError, match=r'train.tsv.gz: damaged .* after line \d'
  ):
    read('rte', published)


def test_missing(published):
  (published / 'MNLI/dev_mismatched.tsv').unlink()
  there = r'MNLI has dev_matched.tsv, train.tsv; expected train.tsv and dev_m'
  with pytest.raises(ValueError, match=there):
    glue.local('mnli', published)
  with pytest.raises(
    ValueError, match=r'MRPC has nothing; expected .*; or msr'
  ):
    glue.local('mrpc', published / 'nowhere')
