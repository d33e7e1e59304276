# SPDX-License-Identifier: Apache-2.0
"""The samples of classification: labels that hold, disjoint splits."""

from collections import Counter
from itertools import groupby
import re
import subprocess
import sys
import zlib

import pytest

from collab.data.samples import classification

SPLITS = ('train', 'val', 'test')


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
  monkeypatch.setitem(classification.DRAWS, 'train', 2000)


def examples(form, split):
  return list(classification.parts(form).readers[split]())


def parts_of(sentence):
  """What stands between commas and 'and' or 'und'."""
  return set(re.split(r',? und |,? and |, ', sentence))


def names(sentence):
  return set(re.findall(r'[^\W\d]\S*[^\W\d]', sentence)) - {'and', 'und'}


@pytest.fixture(scope='module')
def translations():
  """English name -> German name."""
  return {
    classification._name(kind, code, 'en'): classification._name(
      kind, code, 'de'
    )
    for kind, codes in classification.KINDS.items()
    for code in codes
  }


def common(example, translations):
  """How many names the English and the German sentence share."""
  first, second = example.texts[:2]
  german = {x for x in translations.values() if x in parts_of(second)}
  english = {x for x in translations if x in parts_of(first)}
  return len({translations[x] for x in english} & german)


@pytest.mark.parametrize('form', classification.FORMS)
def test_splits(form):
  parts = classification.parts(form)
  assert (parts.val, parts.test) == ({'': 'val'}, {'': 'test'})
  found = {split: examples(form, split) for split in SPLITS}
  first = {split: {e.texts[0] for e in rows} for split, rows in found.items()}
  for split, rows in found.items():
    assert len({e.group for e in rows}) == classification.DRAWS[split]
    for e in rows:
      assert all(text == ' '.join(text.split()) for text in e.texts)
  if form == 'family':  # in eight languages, of which some agree on a sentence
    return
  assert not first['train'] & first['val']
  assert not first['train'] & first['test']
  assert not first['val'] & first['test']
  known = set().union(*(names(t) for e in found['train'] for t in e.texts))
  for split in ('val', 'test'):
    mine = set().union(*(names(t) for e in found[split] for t in e.texts))
    assert mine <= known


@pytest.mark.parametrize(
  'form, labels', [('family', 2), ('same', 2), ('relation', 3), ('choice', 2)]
)
def test_labels_are_balanced(form, labels):
  counts = Counter(e.label for e in examples(form, 'val'))
  assert set(counts) == set(range(labels))
  assert max(counts.values()) < 1.3 * classification.DRAWS['val'] / labels


def test_what_labels_say(translations):
  expected = dict(
    same={0: 0, 1: 2},
    relation={0: 2, 1: 0, 2: 0},
    share={0: 0, 5 / 3: 1, 10 / 3: 2, 5: 3},
    answers={0: 0, 1: 1},
  )
  for form, shared in expected.items():
    for e in examples(form, 'val')[:200]:
      assert common(e, translations) == shared[e.label], e


def test_choices(translations):
  for e in examples('choice', 'val')[:200]:
    first, *choices = e.texts
    right = e._replace(texts=(first, choices[e.label]))
    wrong = e._replace(texts=(first, choices[1 - e.label]))
    assert common(right, translations) == 2
    assert common(wrong, translations) == 0


def test_questions():
  for form, size, right in (('answers', 4, 2), ('entities', 3, 1)):
    for _, group in groupby(examples(form, 'val'), lambda e: e.group):
      group = list(group)
      assert len(group) == size
      assert sum(e.label for e in group) == right
  for e in examples('entities', 'val'):
    name, gold = e.extra
    assert (name in gold) == bool(e.label)
    assert e.texts[1].startswith(f'{name} = ')


def test_another_process_makes_the_same():
  program = (
    'from collab.data.samples import classification as s; import zlib;'
    'print(zlib.crc32('
    "repr([list(s.parts(f).readers['val']()) for f in s.FORMS]).encode()))"
  )
  made = subprocess.run(
    [sys.executable, '-c', program],
    env={'PYTHONHASHSEED': '1', 'PYTHONPATH': ':'.join(sys.path)},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  rows = [examples(form, 'val') for form in classification.FORMS]
  assert int(made) == zlib.crc32(repr(rows).encode())
