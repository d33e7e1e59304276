# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a model mean, kept and compared."""

import json

import pytest

from collab import model_json
from collab.data.samples import classification
from collab.model_json import Meaning
from collab.tasks import glue, superglue

NLI = ('entailment', 'neutral', 'contradiction')
FIELDS = dict(name='encoder', outputs=3, attention=dict(key_dim=[5, 7]))


@pytest.mark.parametrize(
  'old, new, want',
  [
    (NLI, NLI, [0, 1, 2]),
    (('CONTRADICTION', 'NEUTRAL', 'ENTAILMENT'), NLI, [2, 1, 0]),
    (('Not-Same', ' same'), ('same', 'not_same'), [1, 0]),
    (('a', 'A', 'b'), ('A', 'b', 'a'), [1, 2, 0]),  # as they are written
    (('crane', 'crane', 'x'), ('crane', 'crane', 'x'), [0, 1, 2]),
    (('1', '10', '2'), ('1', '2', '10'), [0, 2, 1]),
    (('LABEL_0', 'LABEL_1', 'LABEL_2'), NLI, None),
    (NLI, ('0', '1', '2'), None),
    ((), NLI, None),
    (NLI, (), None),
  ],
)  # fmt: skip
def test_classes_are_found_by_their_names(old, new, want):
  assert model_json.places(old, new) == want


@pytest.mark.parametrize(
  'old, new',
  [
    (('negative', 'positive'), ('entailment', 'not_entailment')),
    (NLI, ('entailment', 'neutral', 'other')),
    (('a', 'A', 'b'), ('a', 'b', 'B')),
    (('crane', 'crane', 'x'), ('crane', 'x', 'crane')),
    (('LABEL_1', 'LABEL_0', 'LABEL_2'), NLI),  # names that are wrong, not none
    (NLI, NLI[:2]),
  ],
)
def test_other_classes_are_refused_with_both_lists(old, new):
  both = f'are {", ".join(old)}; expected {", ".join(new)}$'
  with pytest.raises(ValueError, match=both):
    model_json.places(old, new)


def test_what_is_written_is_read(tmp_path):
  meaning = Meaning('0123456789abcdef', NLI)
  model_json.write(tmp_path, FIELDS, meaning)
  fields, got = model_json.read(tmp_path)
  assert got == meaning
  today = dict(first_position=0)  # which configs of before have not
  assert fields == FIELDS | today | dict(attention=dict(key_dim=(5, 7)))


def test_workdirs_of_before_mean_nothing_and_are_not_compared(tmp_path):
  model_json.check(tmp_path, Meaning('x', NLI))  # no model.json at all
  (tmp_path / 'model.json').write_text(json.dumps(FIELDS))
  assert model_json.read(tmp_path)[1] == Meaning()
  model_json.check(tmp_path, Meaning('x', NLI))


@pytest.mark.parametrize(
  'field, value',
  [
    ('tokenizer', 3),
    ('tokenizer', None),
    ('classes', 'abc'),
    ('classes', ['a', 'b']),
    ('classes', ['a', 'b', 3]),
    ('classes', {'a': 0}),
  ],
)
def test_damage_is_told(field, value, tmp_path):
  path = tmp_path / 'model.json'
  path.write_text(json.dumps(FIELDS | {field: value}))
  with pytest.raises(ValueError, match=f'{path} is damaged: {field} is'):
    model_json.read(tmp_path)


@pytest.mark.parametrize(
  'other, words',
  [
    (Meaning('other', NLI), 'trained with the tokenizer mine, .*; got other'),
    (Meaning('', NLI), 'got none'),
    (Meaning('mine', NLI[::-1]), 'are entailment, .*; expected contradiction'),
    (Meaning('mine'), 'contradiction; expected none'),
  ],
)
def test_a_run_goes_on_with_what_it_began(other, words, tmp_path):
  model_json.write(tmp_path, FIELDS, Meaning('mine', NLI))
  model_json.check(tmp_path, Meaning('mine', NLI))
  with pytest.raises(ValueError, match=words) as info:
    model_json.check(tmp_path, other)
  assert str(tmp_path) in str(info.value)


@pytest.mark.parametrize('family', [glue.GLUE, superglue.SUPERGLUE])
def test_every_subtask_of_classes_names_them(family):
  for name, subtask in family.subtasks.items():
    classes = subtask.outputs > 1 and subtask.head == 'classify'
    assert len(subtask.classes) == (subtask.outputs if classes else 0), name
    sample = classification.CLASSES.get(subtask.form, ())
    assert len(sample) == len(subtask.classes), name


def test_the_order_is_each_benchmarks_own():
  tables, layouts = glue.glue.TABLES, superglue.superglue.LAYOUTS
  for name in ('mnli', 'qnli', 'rte'):
    assert glue.GLUE.subtasks[name].classes == tables[name].labels
  for name in ('cb', 'rte'):
    assert superglue.SUPERGLUE.subtasks[name].classes == layouts[name].labels
  assert glue.GLUE.subtasks['wnli'].classes == ('not_entailment', 'entailment')
