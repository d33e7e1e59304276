# SPDX-License-Identifier: Apache-2.0
"""One's own table: classes, numbers, pairs, splits, and what is wrong in it."""

import numpy as np
import pytest

from collab.tasks import classify
from configs import classify as config
from tests import tiny
from tests.data.test_tables import table, write
from tests.tasks.test_glue import Fake

KINDS = dict(animal='cat dog cow', plant='oak fern ivy', stone='slate flint')


def text(rows, header='text,label'):
  return '\n'.join([header, *rows]) + '\n'


def task(path, folder, subtask='classes', **data):
  c = config.get_config(subtask)
  small = dict(vocab_size=300, row_length=16, batch_size=4)
  c.data.update(small | dict(path=str(path)) | data)
  return classify.build(
    c.data, workdir=str(folder), seed=0, shard=(0, 1), subtask=subtask
  )


@pytest.fixture
def three(tmp_path):
  """A CSV file of three classes."""
  rng = np.random.default_rng(0)
  rows = [
    f'"look, ""{rng.choice(KINDS[kind].split())}"" {i}",{kind}'
    for i, kind in enumerate(rng.choice(list(KINDS), 200))
  ]
  return write(tmp_path / 'three.csv', text(rows))


def test_one_file(three, tmp_path):
  """Classes by name; a tenth is val, another one test."""
  it = task(three, tmp_path)
  assert it.meaning.classes == ('animal', 'plant', 'stone')
  assert it.model_kwargs['head'] == 'classify'
  assert it.model_kwargs['outputs'] == 3
  sizes = it.describe()
  found = [sizes[f'examples{x}'] for x in ('', ' in val', ' in test')]
  assert sum(found) == 200
  assert min(found) > 8
  batch = it.batch(0)
  assert batch['tokens'].shape == (4, 16)
  it.check(None)
  scores, examples = tiny.evaluate(it, Fake(3), {}, 'val')
  assert set(scores) == {'accuracy', 'macro_f1', 'score', 'majority_score'}
  right = np.equal(examples['gold'], examples['predicted']).mean()
  assert scores['score'] == scores['accuracy'] == pytest.approx(right)


def test_the_labels_are_those_of_the_rows(three, tmp_path):
  it = task(three, tmp_path)
  (rows,) = (list(it._parts.readers[x]()) for x in ['test'])
  for example in rows:
    (words,) = example.texts
    kind = it.meaning.classes[example.label]
    assert any(f'"{word}"' in words for word in KINDS[kind].split())


def test_pairs_and_numbers(tmp_path):
  """Columns by name; val without test is evaluated as both."""
  header = 'id,score,left,right'
  write(tmp_path / 'train.csv', text(['1,-2.5,a,b', '2,7,c,d'], header))
  write(tmp_path / 'val.csv', text(['1,0,e,f', '2,1e2,g,h'], header))
  columns = dict(text='left', text_pair='right', label='score')
  it = task(tmp_path, tmp_path / 'run', 'regression', **columns)
  assert it.model_kwargs['outputs'] == 1
  assert it.meaning.classes == ()
  batch = it.batch(0)
  assert batch['labels'].dtype == np.float32
  assert set(batch['labels']) <= {-2.5, 7.0}
  assert batch['types'].any()
  (val,) = {*it._parts.val.values(), *it._parts.test.values()}
  rows = list(it._parts.readers[val]())
  assert [(x.texts, x.label) for x in rows] == [
    (('e', 'f'), 0), (('g', 'h'), 100)
  ]  # fmt: skip


def test_classes_of_datasets(tmp_path):
  """Their order is kept; a test set whose labels are hidden is not used."""
  for split, labels in dict(train=[1, 0, 1], dev=[0, 0, 1]).items():
    write(tmp_path / f'{split}.parquet', table(labels))
  write(tmp_path / 'test.parquet', table([-1, -1, -1]))
  it = task(tmp_path, tmp_path / 'run')
  assert it.meaning.classes == ('x', 'y')
  assert it._labels.tolist() == [1, 0, 1]
  assert it._parts.test == {'': 'val'}


def test_numbers_as_names_are_sorted_as_numbers(tmp_path):
  rows = [f'{i},{i % 11}' for i in range(99)]
  it = task(write(tmp_path / 'a.csv', text(rows)), tmp_path)
  assert it.meaning.classes == tuple(map(str, range(11)))


GOOD = ['a,x', 'b,y']


@pytest.mark.parametrize(
  'train, val, error',
  [
    (
      GOOD,
      ['a,x', 'c,z'],
      r"val\.csv, line 3: the label is 'z', expected x, y",
    ),
    (GOOD, ['a,x,y'], r'val\.csv, line 2: 3 columns, the header has 2 \(data'),
    ([*GOOD, 'c,'], GOOD, r'train\.csv, line 4: the label is missing'),
    (['a,x'], GOOD, 'training has the labels x; expected two classes'),
    (GOOD, [], r'val\.csv: no rows'),
  ],
)
def test_errors(train, val, error, tmp_path):
  write(tmp_path / 'train.csv', text(train))
  write(tmp_path / 'val.csv', text(val))
  with pytest.raises(ValueError, match=error):
    task(tmp_path, tmp_path / 'run')


@pytest.mark.parametrize(
  'subtask, data, error',
  [
    (
      'regression',
      {},
      r'three\.csv, line 2: the label: could not convert string',
    ),
    (
      'classes',
      dict(label='class'),
      'line 1: no column class; there are text,',
    ),
    (
      'classes',
      dict(malformed='drop'),
      "data.malformed='drop'; there are fatal",
    ),
    ('classes', dict(path=''), r'data\.path is empty\. Expected a table'),
    ('classes', dict(path='nowhere'), 'nowhere does not exist'),
  ],
)
def test_errors_of_fields(subtask, data, error, three, tmp_path):
  fields = dict(path=str(three)) | data
  with pytest.raises(ValueError, match=error):
    task(fields.pop('path'), tmp_path, subtask, **fields)


def test_rows_that_are_left_out_are_counted(tmp_path):
  rows = [*GOOD, 'a,b,c', 'c,', 'd,x']
  write(tmp_path / 'train.csv', text(rows))
  write(tmp_path / 'val.csv', text(['a,x', 'a,new']))
  it = task(tmp_path, tmp_path / 'run', malformed='skip')
  shown = it.describe()
  assert shown['examples'] == 3
  assert shown[f'rows left out of {tmp_path}/train.csv'] == 2
  assert shown[f'rows left out of {tmp_path}/val.csv'] == 1


def test_the_sample(tmp_path, monkeypatch):
  from collab.data.samples import classification

  monkeypatch.setattr(classification, 'DRAWS', dict(train=31, val=7, test=7))
  it = task('', tmp_path, corpus='sample')
  assert it.meaning.classes == classification.CLASSES['relation']
