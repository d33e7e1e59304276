# SPDX-License-Identifier: Apache-2.0
"""Tables of all formats have the same rows; what cannot be read says where."""

import gzip
from itertools import chain
import json

from huggingface_hub import constants
import pyarrow as pa
import pyarrow.parquet
import pytest

from collab.data.readers import tables, text

ROWS = [('a "b"', 'x'), ('two\nlines, one cell', 'y'), ('ü', 'x')]
COLUMNS = ('text', 'label')
CSV = 'n,label,text\n1,x,"a ""b"""\n\n2,y,"two\nlines, one cell"\n3,x,ü\n'
FEATURES = dict(
  text=dict(_type='Value'), label=dict(names=['x', 'y'], _type='ClassLabel')
)


def table(labels=None):
  """A pyarrow.Table; labels as `datasets` has them: places in names."""
  texts, names = map(list, zip(*ROWS, strict=True))
  found = pa.table(dict(n=[1, 2, 3], label=labels or names, text=texts))
  kept = json.dumps(dict(info=dict(features=FEATURES)))
  return found.replace_schema_metadata(dict(huggingface=kept))


def save_arrow(path, found):
  """As `datasets` does, in several batches."""
  with pa.ipc.new_stream(path, found.schema) as stream:
    stream.write_table(found, max_chunksize=2)


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    pyarrow.parquet.write_table(content, path)
  elif path.suffix == '.arrow':
    save_arrow(path, content)
  elif path.suffix == '.gz':
    path.write_bytes(gzip.compress(content.encode()))
  else:
    path.write_text(content, 'utf-8')
  return path


def json_lines(rows):
  named = (dict(zip(COLUMNS, row, strict=True), n=1) for row in rows)
  return ''.join(f'{json.dumps(row)}\n' for row in named)


def rows(reader):
  return [tuple(row) for _, row in reader()]


@pytest.mark.parametrize(
  'name, content',
  [
    ('a.csv', CSV),
    ('a.csv.gz', '\ufeff' + CSV.replace('\n', '\r\n')),
    ('a.jsonl', json_lines(ROWS)),
    ('a.parquet', table()),
    ('a.arrow', table()),
  ],
)
def test_formats(name, content, tmp_path):
  path = write(tmp_path / name, content)
  found = tables.read(path, COLUMNS)
  assert rows(found.readers['']) == ROWS
  assert rows(tables.read(tmp_path, COLUMNS).readers['']) == ROWS
  assert found.fingerprint == tables.read(tmp_path, COLUMNS).fingerprint


def test_no_quotes_in_columns_between_tabs(tmp_path):
  write(tmp_path / 'a.tsv', 'text\tlabel\n"a b\tx\n\nc, d"\ty\n')
  found = tables.read(tmp_path, COLUMNS)
  assert rows(found.readers['']) == [('"a b', 'x'), ('c, d"', 'y')]


@pytest.mark.parametrize(
  'names',
  [
    ('train.csv', 'valid.csv', 'test.csv'),
    ('x-train.csv', 'sub/dev.csv', 'test/data.csv'),
  ],
)
def test_splits_by_words(names, tmp_path):
  for i, name in enumerate(names):
    write(tmp_path / name, f'text,label\n{i},x\n')
  write(tmp_path / '.hidden.csv', '')
  write(tmp_path / 'README.md', 'train')
  found = tables.read(tmp_path, COLUMNS)
  given = {split: rows(x) for split, x in found.readers.items()}
  assert given == dict(train=[('0', 'x')], val=[('1', 'x')], test=[('2', 'x')])


def test_folder_of_datasets(tmp_path):
  """As save_to_disk has it, and as the hub has it: in parts, with names."""
  places = table([0, 1, 0])
  for i in range(2):
    write(tmp_path / f'disk/train/data-0000{i}-of-00002.arrow', places)
    write(tmp_path / f'hub/data/train-0000{i}-of-00002.parquet', places)
  write(tmp_path / 'disk/train/cache-1.arrow', places)
  write(tmp_path / 'disk/train/state.json', '{}')
  for folder in ('disk', 'hub'):
    found = tables.read(tmp_path / folder, COLUMNS)
    wanted = [(words, 'xy'.index(name)) for words, name in ROWS]
    assert {k: rows(x) for k, x in found.readers.items()} == dict(
      train=wanted * 2
    )
    assert found.classes == dict(label=('x', 'y'))


@pytest.mark.parametrize(
  'name, content, error',
  [
    ('a.csv', '', r'a.csv is empty; expected a header and rows\.'),
    ('a.csv', 'text,label\n\n', r'a.csv: no rows\.'),
    ('a.csv', 'text,x\na,b\n', 'a.csv, line 1: no column label; there are te'),
    ('a.csv', 'text,label\n"a,b\n', r'a.csv, line 2: unexpected end of data'),
    ('a.csv', 'text,label\n"a"b,c\n', "a.csv, line 2: ',' expected after"),
    ('a.jsonl', '{"text": "a", "label": 1}\n\n{"x": 1}\n', 'line 3: no column'),
    ('a.jsonl', '{"text"\n', 'a.jsonl, line 1 is no JSON'),
    ('a.parquet', pa.table(dict(x=[1])), 'a.parquet: no column text and label'),
    ('a.arrow', pa.table(dict(x=[1])), 'a.arrow: no column text and label'),
    ('a.txt', 'text', r'has no table, but a\.txt\. Expected a table'),
  ],
)
def test_errors(name, content, error, tmp_path):
  write(tmp_path / name, content)
  with pytest.raises(ValueError, match=error):
    rows(tables.read(tmp_path, COLUMNS).readers[''])


@pytest.mark.parametrize('name', ['a.parquet', 'a.arrow', 'a.csv.gz'])
def test_damage(name, tmp_path):
  (tmp_path / name).write_bytes(b'no such thing')
  with pytest.raises(ValueError, match=f'{name}: damaged or unreadable'):
    rows(tables.read(tmp_path, COLUMNS).readers[''])


def test_a_row_of_other_columns_is_for_the_task(tmp_path):
  path = write(tmp_path / 'a.csv', 'text,label\n"a\nb",x\na,b,c\nd,e\n')
  (_, first), (where, fault), (last, _) = tables.read(path, COLUMNS).readers[
    ''
  ]()
  assert first == ['a\nb', 'x']
  assert where == f'{path}, line 4'
  assert str(fault) == '3 columns, the header has 2'
  assert last == f'{path}, line 5'


def test_several_of_a_split(tmp_path):
  write(tmp_path / 'train.csv', CSV)
  write(tmp_path / 'train_old.csv', CSV)
  with pytest.raises(
    ValueError, match=r'train\.csv, .*train_old\.csv for trai'
  ):
    tables.read(tmp_path, COLUMNS)
  write(tmp_path / 'train_test.csv', CSV)
  with pytest.raises(ValueError, match='names several splits: test, train'):
    tables.read(tmp_path, COLUMNS)


# Running text -----------------------------------------------------------------


def test_text_of_a_column(tmp_path):
  """Lines of cells; a checksum chooses the splits that no table has."""
  cells = [f'line {i}\nand {i} more' for i in range(500)]
  lines = '\n'.join(cells).split('\n')
  path = write(tmp_path / 'x.jsonl', json_lines([(x, '') for x in cells]))
  found = text.read('', str(path))
  parts = {split: list(found.lines(split)) for split in found.readers}
  assert sorted(chain.from_iterable(parts.values())) == sorted(lines)
  assert 0 < len(parts['val']) < 30
  write(tmp_path / 'both/train.jsonl', json_lines([(x, '') for x in cells]))
  write(tmp_path / 'both/dev.csv', 'other,text\nx,"a\nb"\n')
  both = text.read('', str(tmp_path / 'both'))
  assert list(both.lines('val')) == ['a', 'b']
  assert list(both.lines('test')) == parts['test']
  assert len(list(both.lines('train'))) + len(parts['test']) == len(lines)
  assert found.fingerprint != text.read('', str(path), 'label').fingerprint


def test_text_that_is_none(tmp_path):
  write(tmp_path / 'a.jsonl', '{"text": 5}\n')
  with pytest.raises(
    ValueError, match=r'a\.jsonl, line 1: text is 5, expected'
  ):
    list(text.read('', str(tmp_path)).lines('train'))
  with pytest.raises(ValueError, match='no column words; there are text'):
    list(text.read('', str(tmp_path), 'words').lines('train'))
  write(tmp_path / 'train.txt', 'text\n')  # a table beside text is not read
  with pytest.raises(ValueError, match='has nothing for val'):
    text.read('', str(tmp_path))


# The hub ----------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """The folder of a subset in the hub's cache, and no network."""
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  place = tmp_path / 'datasets--glue'
  write(place / 'refs/refs/convert/parquet', 'abc')
  return place / 'snapshots/abc/rte'


def test_a_name_of_the_hub(hub):
  for split in ('train', 'validation'):
    for i in range(2):
      write(hub / split / f'000{i}.parquet', table([0, 1, 0]))
  found = tables.read('hf:glue/rte', COLUMNS)
  assert {k: len(rows(x)) for k, x in found.readers.items()} == dict(
    train=6, val=6
  )
  assert rows(found.readers['val'])[1] == (ROWS[1][0], 1)
  assert found.classes == dict(label=('x', 'y'))
  line, *_ = text.read('', 'hf:glue/rte').lines('val')
  assert line == ROWS[0][0]


@pytest.mark.parametrize(
  'name, error',
  [
    ('glue/cola', r'abc/cola does not exist\. Expected a table'),
    ('owner/glue/rte', 'hf:owner/glue/rte is neither on the hub nor kept here'),
    ('glue', 'hf:glue: expected hf:NAME/SUBSET or hf:OWNER/NAME/SUBSET'),
  ],
)
def test_what_the_hub_has_not(name, error, hub):
  hub.mkdir(parents=True)
  with pytest.raises(ValueError, match=error):
    tables.read(f'hf:{name}', COLUMNS)
