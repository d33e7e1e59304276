# SPDX-License-Identifier: Apache-2.0
"""The sample of span questions: answers in place, disjoint splits."""

import re
import subprocess
import sys
import zlib

import pytest

from collab.data.readers import squad_files
from collab.data.readers.squad_files import VERSIONS, Question
from collab.data.samples import questions
from collab.data.splits import SPLITS

HOLES = dict(place='(?:the )?(.+)', value='(.+)')
PATTERNS = {
  kind: re.compile(sentence.format(**HOLES).removesuffix('.'))
  for kind, (sentence, _) in questions.WORDS.items()
}


@pytest.fixture(scope='module', params=VERSIONS)
def version(request):
  return request.param


@pytest.fixture(scope='module')
def splits(version):
  source = questions.sample(version)
  return {split: source.read(split) for split in SPLITS}


def told(context):
  """(kind, country) -> value, as a reader has it from the text."""
  found = {}
  for sentence in context.removesuffix('.').split('. '):
    for kind, pattern in PATTERNS.items():
      if match := pattern.fullmatch(sentence):
        found[kind, match[1]] = match[2]
  return found


def asked(question):
  """(kind, country)."""
  for kind, (_, text) in questions.WORDS.items():
    pattern = re.escape(text).replace(r'\{place\}', HOLES['place'])
    if match := re.fullmatch(pattern, question.text):
      return kind, match[1]
  raise AssertionError(question.text)


def test_sizes(splits, version):
  assert {s: len(rows) for s, rows in splits.items()} == dict(
    train=12_000, val=500, test=500
  )
  for rows in splits.values():
    assert len({q.id for q in rows}) == len(rows)
    assert len({(q.context, q.text) for q in rows}) > 0.99 * len(rows)
    share = sum(not q.answers for q in rows) / len(rows)
    assert share == pytest.approx(1 / 3 * (version == 'v2.0'), abs=0.05)


def test_answers(splits, version):
  """Each is in its place, and the only one; what is not told has none."""
  for rows in splits.values():
    for q in rows:
      squad_files.check(q, version)
      facts = told(q.context)
      assert q.answers == tuple(filter(None, [facts.get(asked(q))]))
      assert len(set(facts.values())) == len(facts)
      assert q.context.count('.') == len(facts)


def test_a_question_needs_all_of_its_words(splits, version):
  """Its kind and its country are told of, each with another as well.

  But for what has an answer in v2.0, where one of four facts is left out.
  """
  for q in splits['val']:
    facts, (kind, country) = told(q.context), asked(q)
    assert len(facts) == (4 if version == 'v1.1' else 3)
    if version == 'v1.1' or not q.answers:
      assert any(k == kind and c != country for k, c in facts)
      assert any(k != kind and c == country for k, c in facts)


def test_splits_are_disjoint(splits):
  """No two splits tell of the same two countries and the same two kinds."""

  def keys(split):
    facts = (told(q.context) for q in splits[split])
    return {frozenset(x for fact in every for x in fact) for every in facts}

  made = {split: keys(split) for split in SPLITS}
  assert {len(key) for key in made['train']} == {4}
  for a, b in [('train', 'val'), ('train', 'test'), ('val', 'test')]:
    assert not made[a] & made[b]


def test_training_has_every_word(splits):
  def words(split, *names):
    text = ' '.join(getattr(q, n) for q in splits[split] for n in names)
    return set(re.findall(r'[^\W\d]+', text))

  known = words('train', 'context', 'text')
  assert words('val', 'context') | words('test', 'context') <= known
  assert words('val', 'text') | words('test', 'text') <= words('train', 'text')


def test_wrong_version():
  with pytest.raises(ValueError, match=r"^data\.version='v3'; there are v1"):
    questions.sample('v3')


def test_another_process_makes_the_same(splits, version):
  program = (
    'from collab.data.samples import questions; import zlib;'
    f"print(zlib.crc32(repr(questions.generate('{version}', 'val')).encode()))"
  )
  made = subprocess.run(
    [sys.executable, '-c', program],
    env={'PYTHONHASHSEED': '1', 'PYTHONPATH': ':'.join(sys.path)},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert int(made) == zlib.crc32(repr(splits['val']).encode())


def test_baselines():
  def row(context, text='Who ate the fish?', *answers):
    return Question('', context, text, answers, (0,) * len(answers))

  assert questions.first_name(row('On June 5 Ann Lee ate.')) == 'June'
  assert questions.first_name(row('In Old Rome, Ann ate.')) == 'Old Rome'
  assert questions.first_name(row('it rained')) == 'it rained'
  say = questions.frequent(
    [
      row('', 'Who ate the fish?', 'Ann'),
      row('', 'Who ate the bread?', 'Bob'),
      row('', 'Who ate the cake?', 'Bob'),
      row('', 'Where is it?', 'Rome'),
      row('', 'Where is she?', 'Rome'),
      row('', 'Where are they?', 'Rome'),
      row('', 'Where are we?'),
    ]
  )
  assert say(row('Bob saw Ann in Rome')) == 'Bob'
  assert say(row('She saw Ann in Rome')) == 'Ann'
  assert say(row('She saw Rome')) == say(row('Bob, Ann, Rome', 'x')) == 'Rome'
  assert say(row('Nobody')) == ''
