# SPDX-License-Identifier: Apache-2.0
"""Data files with all kinds of damage are read, or refused in one line."""

import gzip
import io
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from collab.data import examples
from collab.data.readers import (
  glue,
  idx,
  images,
  sources,
  squad_files,
  superglue,
  text,
)
from tests.few import few
from tests.fuzz.damage import Refused, damaged, fuzz, json_files, outcome

TSV = {
  'cola': b'x\t1\t\tA man sleeps.\ny\t0\t*\tSleep a man.\n',
  'sst2': 'sentence\tlabel\nschön\t1\nbad\t0\n'.encode(),
  'stsb': b'sentence1\tsentence2\tscore\na\tb\t2.5\nc\td\t5.0\n',
  'rte': b'index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n',
}


@fuzz(150)
@given(st.data())
def test_glue(tmp_path_factory, data):
  name = data.draw(st.sampled_from(sorted(TSV)))
  table = glue.TABLES[name]
  skip = data.draw(st.sampled_from(glue.MALFORMED))
  folder = tmp_path_factory.getbasetemp() / 'glue' / table.folder
  folder.mkdir(parents=True, exist_ok=True)
  for part in ('train', 'dev'):
    content = data.draw(damaged(TSV[name]))
    (folder / f'{part}.tsv').write_bytes(content)
  found = outcome(glue.local, name, folder.parent, skip)
  for reader in found.readers.values():
    check_examples(outcome(lambda r=reader: list(r())), len(table.labels) or 6)


def check_examples(found, labels):
  if isinstance(found, Refused):
    assert 'line ' in found or 'has no examples' in found
    return
  assert found
  for example in found:
    assert isinstance(example, examples.Example)
    assert all(isinstance(part, str) for part in example.texts)
    '\n'.join(example.texts).encode()  # no half of a surrogate pair
    assert 0 <= example.label < labels


JSONL = {
  'boolq': [dict(passage='a b', question='c', label=True, idx=0)],
  'copa': [
    dict(premise='p', choice1='a', choice2='b', question='cause', label=1)
  ],
  'multirc': [
    dict(passage=dict(text='t', questions=[
      dict(question='q', answers=[dict(text='a', label=1)])]))
  ],
  'record': [
    dict(
      passage=dict(text='Ann met Bob.', entities=[dict(start=0, end=2)]),
      qas=[dict(query='@placeholder met', answers=[dict(text='Ann')])],
    )
  ],
  'wic': [dict(sentence1='a bat', sentence2='bats', start1=2, end1=5, start2=0,
               end2=4, label=False)],
  'wsc': [dict(text='Ann saw her .', label=True, target=dict(
    span1_index=0, span1_text='Ann', span2_index=2, span2_text='her'))],
}  # fmt: skip


@few(sorted(JSONL), ['record'], 'name')
@fuzz(60)
@given(st.data())
def test_superglue(name, tmp_path_factory, data):
  layout = superglue.LAYOUTS[name]
  folder = tmp_path_factory.getbasetemp() / 'superglue' / layout.folder
  folder.mkdir(parents=True, exist_ok=True)
  for part in ('train', 'val'):
    content = data.draw(json_files(*JSONL[name]))
    (folder / f'{part}.jsonl').write_bytes(content)
  found = outcome(superglue.local, name, folder.parent)
  for reader in found.readers.values():
    check_examples(outcome(lambda r=reader: list(r())), 3)


LINES = 'eins zwei\nдва три\n\nfour\n'.encode()


@fuzz(100)
@given(st.sampled_from(['', '.gz']), damaged(LINES), st.data())
def test_parallel_text(tmp_path_factory, ending, content, data):
  folder = tmp_path_factory.mktemp('parallel')
  content = data.draw(damaged(gzip.compress(LINES))) if ending else content
  (folder / f'train.en{ending}').write_bytes(content)
  (folder / 'train.de').write_bytes(LINES)
  (folder / 'val.tsv').write_bytes(data.draw(damaged(b'a\tb\nc\td\tclass\n')))
  corpus = outcome(sources.parallel, folder, 'en', 'de')
  for split in ('train', 'val'):
    found = outcome(lambda s=split: list(corpus.rows(s)))
    if isinstance(found, Refused):
      assert 'lines' in found or 'line ' in found or 'no pairs' in found
    else:
      assert all(isinstance(x, str) for row in found for x in row)


@fuzz(60)
@given(st.sampled_from(['txt', 'train.raw', 'raw.gz']), st.data())
def test_text(tmp_path_factory, name, data):
  folder = tmp_path_factory.mktemp('text')
  good = gzip.compress(LINES) if name.endswith('gz') else LINES
  (folder / f'a.{name}').write_bytes(data.draw(damaged(good)))
  (folder / 'b.txt').write_bytes(data.draw(damaged(LINES)))
  found = outcome(text.local, folder)
  if not isinstance(found, Refused):
    for split in ('train', 'val', 'test'):
      lines = outcome(lambda s=split: list(found.lines(s)))
      if not isinstance(lines, Refused):
        ''.join(lines).encode()


SQUAD = dict(
  version='1.1',
  data=[
    dict(
      title='t',
      paragraphs=[
        dict(
          context='Ann met Bob in May.',
          qas=[
            dict(
              id='1',
              question='Who?',
              is_impossible=False,
              answers=[dict(text='Bob', answer_start=8)],
            )
          ],
        )
      ],
    )
  ],
)


@fuzz(200)
@given(json_files(SQUAD), st.sampled_from(['v1.1', 'v2.0']))
def test_squad(tmp_path_factory, content, version):
  folder = tmp_path_factory.getbasetemp() / 'squad'
  folder.mkdir(exist_ok=True)
  (folder / 'train.json').write_bytes(content)
  found = outcome(squad_files.read, folder / 'train.json', version)
  if isinstance(found, Refused):
    assert str(folder) in found
    return
  for question in found:
    for answer, start in zip(question.answers, question.starts, strict=True):
      assert question.context[start:].startswith(answer)
    f'{question.id}{question.text}{question.context}'.encode()


def header(*shape):
  return bytes([0, 0, 8, len(shape)]) + np.array(shape, '>i4').tobytes()


IMAGES = header(2, 3, 3) + bytes(range(18))
LABELS = header(2) + bytes([1, 0])


@fuzz(150)
@given(damaged(IMAGES), damaged(LABELS, IMAGES), st.booleans())
def test_idx(tmp_path_factory, pictures, labels, zipped):
  folder = tmp_path_factory.mktemp('idx')
  for prefix in ('train', 't10k'):
    (folder / f'{prefix}-images-idx3-ubyte').write_bytes(IMAGES)
    (folder / f'{prefix}-labels-idx1-ubyte').write_bytes(LABELS)
  (folder / 'train-images-idx3-ubyte').write_bytes(pictures)
  if zipped:
    (folder / 'train-labels-idx1-ubyte').unlink()
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(labels)
  else:
    (folder / 'train-labels-idx1-ubyte').write_bytes(labels)
  found = outcome(idx.read, folder)
  if not isinstance(found, Refused):
    for x, y in found.values():
      assert (x.ndim, y.ndim, len(x)) == (3, 1, len(y))
      assert x.dtype == y.dtype == np.uint8
  outcome(images.read, corpus='', path=str(folder), channels=1)


def picture(kind, shape=(5, 5, 3), dtype=np.uint8, **options):
  data = io.BytesIO()
  pixels = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
  Image.fromarray(pixels).save(data, kind, **options)
  return data.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES = [
  picture('png'),
  picture('jpeg', exif=TURNED),
  picture('bmp'),
  picture('png', (5, 5, 4)),
  picture('png', (5, 5), np.uint16),
  picture('png', (5, 5), transparency=7),
]


@fuzz(80)
@given(damaged(*PICTURES), st.booleans())
def test_pictures(tmp_path_factory, content, skip):
  folder = tmp_path_factory.getbasetemp() / 'pictures'
  for split in ('train', 'val', 'test'):
    (folder / split / 'cat').mkdir(parents=True, exist_ok=True)
    (folder / split / 'cat' / 'a.png').write_bytes(picture('png'))
  (folder / 'train' / 'cat' / 'a.png').write_bytes(content)
  found = images.read(
    corpus='', path=str(folder), damaged='skip' if skip else 'error'
  )
  got = outcome(lambda: found.splits['train'][0])
  if isinstance(got, Refused):
    assert not skip
    assert 'a.png does not decode' in got
  elif got is None:
    assert skip
    assert [name.endswith('a.png') for name in found.damaged] == [True]
  else:
    assert got[0].mode == 'RGB'


def test_json_that_is_too_deep_or_too_long(tmp_path):
  """What Python's reader says by other errors than JSONDecodeError."""
  path = tmp_path / 'train.json'
  for content in ('[' * 100_000, '9' * 5000):
    path.write_text(content)
    with pytest.raises(ValueError, match=f'{path} is no JSON'):
      squad_files.read(path, 'v1.1')
  folder = tmp_path / 'BoolQ'
  folder.mkdir()
  row = json.dumps(JSONL['boolq'][0])
  for part in ('train', 'val'):
    (folder / f'{part}.jsonl').write_text(f'{row}\n{"[" * 100_000}\n')
  found = superglue.local('boolq', tmp_path)
  with pytest.raises(ValueError, match=r'train\.jsonl, line 2: it is no JSON'):
    list(found.readers['train']())
