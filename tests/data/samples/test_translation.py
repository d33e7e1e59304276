# SPDX-License-Identifier: Apache-2.0
"""The sample: disjoint splits, no unseen names, the same everywhere."""

from collections import Counter
import re
import subprocess
import sys
import zlib

from babel import Locale
import pytest

from collab.data.readers import sources
from collab.data.samples import localisation, translation

HELD_OUT = ('val', 'test')


@pytest.fixture(scope='module')
def splits():
  return translation.generate()


def words(text):
  return set(re.findall(r'[^\W\d]+', text))


def test_sizes_and_categories(splits):
  assert {s: len(pairs) for s, pairs in splits.items()} == {
    'train': 14_000,
    'val': 500,
    'test': 500,
  }
  for split, pairs in splits.items():
    times = translation.TRAIN if split == 'train' else 1
    assert Counter(p.category for p in pairs) == {
      category: share * times
      for category, (*_, share) in translation.SHARES.items()
    }


def test_splits_are_disjoint(splits):
  sentences = {s: {p.source for p in pairs} for s, pairs in splits.items()}
  values = {
    s: {v for p in pairs for v in p.values} for s, pairs in splits.items()
  }
  for split, pairs in splits.items():
    assert len(sentences[split]) == len(pairs)  # and no sentence twice
  for a, b in [('train', 'val'), ('train', 'test'), ('val', 'test')]:
    assert not sentences[a] & sentences[b]
    assert not values[a] & values[b]


def test_numbers_as_written_are_disjoint(splits):
  """Without the generator's word: digits as they stand in the sentences."""

  def numbers(split):
    return {
      float(number.replace(',', '').rstrip('.'))
      for p in splits[split]
      if p.category in ('amount', 'unit', 'relative')
      for number in re.findall(r'\d[\d,.]*', p.source)
    }

  assert numbers('test')
  assert not numbers('train') & numbers('test')
  assert not numbers('train') & numbers('val')


@pytest.mark.parametrize('split', HELD_OUT)
def test_training_has_every_name(splits, split):
  train = splits['train']
  for side in (0, 1):  # every word of the text as it is written
    known = set().union(*(words(p[side]) for p in train))
    assert set().union(*(words(p[side]) for p in splits[split])) <= known


def test_both_languages_have_all_names():
  kinds = [
    (localisation.TERRITORIES, 'territories'),
    (localisation.LANGUAGES, 'languages'),
    (localisation.SCRIPTS, 'scripts'),
    (localisation.CURRENCIES, 'currencies'),
  ]
  for codes, kind in kinds:
    assert len(set(codes)) == len(codes)
    for locale in (Locale('en'), Locale('de')):
      assert set(codes) <= set(getattr(locale, kind))


def test_text_is_plain_and_short(splits):
  for p in [p for pairs in splits.values() for p in pairs]:
    for text in p[:2]:
      assert text == ' '.join(text.split())
      assert all(not c.isspace() or c == ' ' for c in text)
      assert len(text.split()) <= 16
    digits = [sum(c.isdigit() for c in text) for text in p[:2]]
    assert p.category in ('date', 'time') or digits[0] == digits[1]


def test_another_process_makes_the_same(splits):
  program = (
    'from collab.data.samples import translation; import zlib;'
    'print(zlib.crc32(repr(translation.generate()).encode()))'
  )
  made = subprocess.run(
    [sys.executable, '-c', program],
    env={'PYTHONHASHSEED': '1', 'PYTHONPATH': ':'.join(sys.path)},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert int(made) == zlib.crc32(repr(splits).encode())


def test_corpus(splits):
  corpus = sources.sample()
  assert tuple(corpus.readers) == ('train', 'val', 'test')
  pairs = list(corpus.pairs('test'))
  assert pairs == [p[:2] for p in splits['test']]
  categories = [row[2] for row in corpus.rows('test')]
  assert categories == [p.category for p in splits['test']]
  assert corpus.fingerprint == sources.sample().fingerprint


def test_baselines():
  pairs = [
    ('12.5 meters', '12,5 Meter'),
    ('7 kilograms', '7 Kilogramm'),
    ('Peru and Chile', 'Peru und Chile'),
    ('Peru or Chile', 'Peru oder Chile'),
  ]
  translate = translation.lookup(pairs)
  assert translate('99 kilograms') == '7 Kilogramm'
  assert translate('3.4 meters') == '12,5 Meter'
  assert translate('Spain or Chile') == 'Peru oder Chile'
  assert translate('Spain, Peru, or Chile') == 'Peru oder Chile'
  assert translate('') in [target for _, target in pairs]
  assert translation.template('May 4, 12.5 km') == 'X 0, 0.0 km'
