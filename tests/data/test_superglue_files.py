# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's published files: what is read, and each kind of bad input."""

import gzip
import json

import numpy as np
import pytest

from collab.data.examples import Example
from collab.data.readers import superglue, superglue_forms
from collab.metrics import labels

PASSAGE = 'Ann met Bo in Rome.\n@highlight\nBo left'
# Folder -> lines as published.
LINES = dict(
  BoolQ=[
    dict(question='is it wet', passage='Water is wet.', idx=0, label=True),
    dict(question='is it dry', passage='Water is wet.', idx=1, label=False),
  ],
  CB=[dict(premise='It may.', hypothesis='It does', label='neutral', idx=0)],
  COPA=[
    dict(
      premise='He fell.',
      choice1='He slipped.',
      choice2='He flew.',
      question='cause',
      label=0,
      idx=0,
    ),
    dict(
      premise='He fell.',
      choice1='He sang.',
      choice2='It hurt.',
      question='effect',
      label=1,
      idx=1,
    ),
  ],
  MultiRC=[
    dict(
      idx=7,
      passage=dict(
        text='Ann sat. Bo ran.',
        questions=[
          dict(
            question='Who ran?',
            idx=3,
            answers=[
              dict(text='Ann', idx=0, label=0),
              dict(text='Bo', idx=1, label=1),
            ],
          ),
          dict(
            question='Who sat?',
            idx=4,
            answers=[dict(text='Ann', idx=2, label=1)],
          ),
        ],
      ),
    )
  ],
  ReCoRD=[
    dict(
      source='news',
      passage=dict(
        text=PASSAGE,
        entities=[
          dict(start=0, end=2),
          dict(start=8, end=9),
          dict(start=14, end=17),
          dict(start=31, end=32),
        ],
      ),
      idx=0,
      qas=[
        dict(
          query='@placeholder is gone',
          answers=[dict(start=8, end=9, text='Bo')],
          idx=0,
        )
      ],
    )
  ],
  RTE=[dict(premise='He ran', hypothesis='He sat', label='not_entailment')],
  WiC=[
    dict(
      word='bank',
      sentence1='The bank closed.',
      sentence2='A river bank',
      start1=4,
      end1=8,
      start2=8,
      end2=12,
      label=False,
      idx=0,
    )
  ],
  WSC=[
    dict(
      text='The old man saw Bo when he fell.',
      target=dict(
        span1_index=0, span1_text='The old man', span2_index=6, span2_text='he'
      ),
      idx=0,
      label=True,
    )
  ],
)


def write(folder, lines=LINES):
  for name, rows in lines.items():
    for part in ('train', 'val'):
      path = folder / name / f'{part}.jsonl'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows), 'utf-8')
  return folder


def read(name, folder, part='train'):
  return list(superglue.local(name, folder).readers[part]())


def test_every_task(tmp_path):
  write(tmp_path)
  found = {name: read(name, tmp_path) for name in superglue.LAYOUTS}
  for name, examples in found.items():
    parts = superglue.local(name, tmp_path)
    assert parts.val == parts.test == {'': 'val'}
    assert list(parts.readers['val']()) == examples
  assert found['boolq'] == [
    Example(('Water is wet.', 'is it wet'), 1),
    Example(('Water is wet.', 'is it dry'), 0),
  ]
  assert found['cb'] == [Example(('It may.', 'It does'), 2)]
  assert found['copa'] == [
    Example(
      ('He fell. What was the cause of this?', 'He slipped.', 'He flew.'), 0
    ),
    Example(('He fell. What happened as a result?', 'He sang.', 'It hurt.'), 1),
  ]
  text = 'Ann sat. Bo ran.'
  assert found['multirc'] == [
    Example((text, 'Who ran? Ann'), 0, (1, 0)),
    Example((text, 'Who ran? Bo'), 1, (1, 0)),
    Example((text, 'Who sat? Ann'), 1, (1, 1)),
  ]
  text = 'Ann met Bo in Rome. Bo left'
  assert found['record'] == [
    Example((text, 'Ann is gone'), 0, (1, 0), ('Ann', ('Bo',))),
    Example((text, 'Bo is gone'), 1, (1, 0), ('Bo', ('Bo',))),
    Example((text, 'Rome is gone'), 0, (1, 0), ('Rome', ('Bo',))),
  ]
  assert found['rte'] == [Example(('He ran', 'He sat'), 1)]
  assert found['wic'] == [
    Example(('The * bank * closed.', 'A river * bank *'), 0)
  ]
  assert found['wsc'] == [
    Example(('* The old man * saw Bo when # he # fell.',), 1)
  ]


def test_one_word_has_both_marks(tmp_path):
  row = LINES['WSC'][0] | dict(
    target=dict(span1_index=4, span1_text='Bo', span2_index=4, span2_text='Bo')
  )
  write(tmp_path, dict(WSC=[row]))
  (example,) = read('wsc', tmp_path)
  assert example.texts == ('The old man saw # * Bo * # when he fell.',)


def test_spans_with_punctuation_or_another_case(tmp_path):
  row = dict(
    text='Ann\'s "Old friend", said Bo, is she .',
    target=dict(
      span1_index=1, span1_text='old friend', span2_index=6, span2_text='She'
    ),
    label=True,
  )
  lone = dict(span1_index=0, span1_text='Ann')
  write(tmp_path, dict(WSC=[row, row | dict(target=row['target'] | lone)]))
  found = [example.texts[0] for example in read('wsc', tmp_path)]
  assert found[0] == 'Ann\'s * "Old friend", * said Bo, is # she # .'
  assert found[1].startswith("* Ann's * ")


def test_the_pronoun_that_is_misplaced_in_the_published_file(tmp_path):
  ((text, pronoun, at),) = superglue_forms.MISPLACED
  target = dict(
    span1_index=22, span1_text='safe', span2_index=at, span2_text=pronoun
  )
  write(tmp_path, dict(WSC=[dict(text=text, target=target, label=False)]))
  (example,) = read('wsc', tmp_path)
  assert 'an iron * safe * . Some day' in example.texts[0]
  assert 'want to use # it # , but' in example.texts[0]


def test_a_passage_without_entities_has_no_right_answer(tmp_path):
  """It stays a question, which counts 0."""
  row = LINES['ReCoRD'][0]
  none = row | dict(passage=dict(text=PASSAGE, entities=[]))
  write(tmp_path, dict(ReCoRD=[row, none]))
  *_, last = found = read('record', tmp_path)
  assert {example.group for example in found} == {(1, 0), (2, 0)}
  assert (last.group, last.label, last.extra) == ((2, 0), 0, ('', ('Bo',)))
  scores = labels.entity_scores([('Bo', ('Bo',)), last.extra])
  assert scores == dict(exact_match=0.5, f1=0.5, score=0.5)


def test_blank_lines_are_no_rows(tmp_path):
  write(tmp_path)
  for name in LINES:
    whole = read(name.lower(), tmp_path)
    with (tmp_path / name / 'train.jsonl').open('a') as file:
      file.write('\n  \n')
    assert read(name.lower(), tmp_path) == whole


def changed(row, **fields):
  return json.dumps(row | fields)


@pytest.mark.parametrize(
  'folder, line, words',
  [
    (
      'BoolQ',
      '{"question": "is',
      ['no JSON: Unterminated string', 'column 14'],
    ),
    ('BoolQ', 'x', ['no JSON: Expecting value: line 1 column 1']),
    ('BoolQ', '[1, 2]', ['holds a list, expected {...}']),
    ('BoolQ', '{"passage": "a", "label": true}', ["expected 'question', got"]),
    (
      'BoolQ',
      '{"passage": "a", "question": "b"}',
      ["expected 'label', got passage, question"],
    ),
    (
      'BoolQ',
      changed(LINES['BoolQ'][0], label='yes'),
      ["the label is 'yes', expected False, True"],
    ),
    (
      'BoolQ',
      changed(LINES['BoolQ'][0], passage=7),
      ['passage is 7, expected str'],
    ),
    (
      'COPA',
      changed(LINES['COPA'][0], question='why'),
      ["question is 'why', expected cause, effect"],
    ),
    (
      'WiC',
      changed(LINES['WiC'][0], end2=99),
      ['the word is 8 to 99 of sentence2, which has 12 characters'],
    ),
    (
      'WSC',
      changed(
        LINES['WSC'][0], target=LINES['WSC'][0]['target'] | dict(span2_index=8)
      ),
      ['span2 is words 8 to 8 of a text of 8'],
    ),
    (
      'WSC',
      changed(
        LINES['WSC'][0], target=LINES['WSC'][0]['target'] | dict(span2_index=5)
      ),
      ["span2_index is 5, where the text has 'when'; expected 'he'"],
    ),
    (
      'WSC',
      changed(
        LINES['WSC'][0],
        target=LINES['WSC'][0]['target'] | dict(span1_text='The old woman'),
      ),
      ["span1_index is 0, where the text has 'The old man'; expected 'The old"],
    ),
    (
      'WiC',
      changed(LINES['WiC'][0], start1=5),
      ["sentence1 has 'ank' from 5 to 8, expected a whole word"],
    ),
    (
      'WSC',
      json.dumps(
        dict(
          text='a b c',
          label=True,
          target=dict(
            span1_index=1, span1_text='!!', span2_index=2, span2_text='c'
          ),
        )
      ),
      ["span1_index is 1, where the text has 'b'; expected '!!'"],
    ),
    (
      'WiC',
      changed(LINES['WiC'][0], start1=3),
      ["sentence1 has ' bank' from 3 to 8, expected a whole word"],
    ),
    (
      'ReCoRD',
      json.dumps(
        dict(
          passage=LINES['ReCoRD'][0]['passage'],
          qas=[dict(query='Who is gone?', answers=[dict(text='Bo')])],
        )
      ),
      ["query is 'Who is gone?', expected @placeholder in it"],
    ),
    (
      'ReCoRD',
      json.dumps(
        dict(
          passage=LINES['ReCoRD'][0]['passage'],
          qas=[dict(query='@placeholder?', answers=[])],
        )
      ),
      ['answers is empty, expected one at least'],
    ),
    (
      'ReCoRD',
      json.dumps(
        dict(passage=dict(text='Bo', entities=[dict(start=1, end=2)]), qas=[])
      ),
      ['an entity is 1 to 2 of a passage of 2 characters'],
    ),
    (
      'MultiRC',
      '{"passage": {"text": "a"}}',
      ["expected 'questions', got text"],
    ),
    ('ReCoRD', '{"passage": {"text": "a"}}', ["expected 'entities', got text"]),
  ],
)
def test_bad_input(folder, line, words, tmp_path):
  write(tmp_path)
  path = tmp_path / folder / 'train.jsonl'
  count = len(LINES[folder])
  with path.open('a') as file:
    file.write(f'{line}\n')
  with pytest.raises(ValueError, match='jsonl, line') as info:
    read(folder.lower(), tmp_path)
  for word in [f'{path}, line {count + 1}: ', *words]:
    assert word in str(info.value)
  assert '\n' not in str(info.value)


def test_files(tmp_path):
  with pytest.raises(ValueError, match=r'no file .*CB/train.jsonl'):
    superglue.local('cb', tmp_path)
  write(tmp_path)
  path = tmp_path / 'CB/train.jsonl'
  path.write_text('')
  with pytest.raises(ValueError, match=r'train.jsonl has no examples'):
    read('cb', tmp_path)
  path.unlink()
  rng = np.random.default_rng(0)
  rows = [LINES['CB'][0] | dict(idx=float(x)) for x in rng.random(999)]
  whole = gzip.compress(''.join(f'{json.dumps(x)}\n' for x in rows).encode())
  path = path.with_name('train.jsonl.gz')
  path.write_bytes(whole)
  assert len(read('cb', tmp_path)) == 999
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match=r'jsonl.gz: damaged .* after line \d'):
    read('cb', tmp_path)
  with pytest.raises(ValueError, match=r"^data\.malformed='skip'; there are"):
    superglue.local('cb', tmp_path, 'skip')
