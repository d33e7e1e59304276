# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE as it is published: a folder of JSONL a task; or prepared by TFDS.

Labels of the public test sets are hidden, so 'val' and 'test' are both
val.jsonl (plain or .gz): the best epoch on it is an optimistic number.

What a task does not say by its layout, and is our choice, as the usual ones:
  WiC    the word stands between asterisks in both sentences;
  WSC    one text, the noun between asterisks, the pronoun between hashes;
  COPA   the premise, the question in words; then a choice;
  MultiRC, BoolQ, ReCoRD  the passage first, the question (and answer) second;
  ReCoRD an example for each entity of the passage, that entity in the place of
         @placeholder: of a question's the most probable is the answer.
"""

from collections.abc import Callable
import functools
import json
from pathlib import Path
import re
from typing import NamedTuple

from collab.data.examples import Example, Parts
from collab.data.readers import prepared
from collab.data.readers.glue import existing, label_id
from collab.io import json_text, text_lines

BOOLS, BITS = (False, True), (0, 1)
COPA = dict(
  cause='What was the cause of this?', effect='What happened as a result?'
)


PLACEHOLDER = '@placeholder'
# WSC as it is published has one pronoun a word too early, in val.jsonl.
MISPLACED = {
  (
    'When they had eventually calmed down a bit , and had gotten home, Mr. '
    'Farley put the magic pebble in an iron safe . Some day they might want to '
    'use it , but really for now, what more could they wish for?',
    'it',
    30,
  ): 31
}


def field(row, key, kind=str):
  """row[key], which must be there and of a kind."""
  if not isinstance(row, dict) or key not in row:
    there = ', '.join(row) if isinstance(row, dict) else repr(row)
    raise ValueError(f'expected {key!r}, got {there}')
  if not isinstance(row[key], kind):
    raise ValueError(f'{key} is {row[key]!r}, expected {kind.__name__}')
  if kind is str and any('\ud800' <= c <= '\udfff' for c in row[key]):
    raise ValueError(f'{key} has half a surrogate pair, so it is no Unicode')
  return row[key]


# Forms: an example in TFDS' layout -> Examples, labels as they stand there ----


def _two(first, second):
  def form(row):
    yield Example(
      (field(row, first), field(row, second)), field(row, 'label', object)
    )

  return form


def _copa(row):
  question = field(row, 'question')
  if question not in COPA:
    raise ValueError(f'question is {question!r}, expected {", ".join(COPA)}')
  premise = f'{field(row, "premise")} {COPA[question]}'
  texts = (premise, field(row, 'choice1'), field(row, 'choice2'))
  yield Example(texts, field(row, 'label', object))


def _multirc(row):
  idx = field(row, 'idx', dict)
  yield Example(
    (
      field(row, 'paragraph'),
      f'{field(row, "question")} {field(row, "answer")}',
    ),
    field(row, 'label', object),
    (idx['paragraph'], idx['question']),
  )


def _record(row):
  passage = ' '.join(field(row, 'passage').replace('@highlight', ' ').split())
  idx, query = field(row, 'idx', dict), field(row, 'query')
  if PLACEHOLDER not in query:
    raise ValueError(f'query is {query!r}, expected {PLACEHOLDER} in it')
  answers = tuple(row['answers'])
  if not answers:
    raise ValueError('answers is empty, expected one at least')
  # A passage without entities leaves nothing to answer with: that counts too.
  for entity in row['entities'] or ['']:
    yield Example(
      (passage, query.replace(PLACEHOLDER, entity)),
      int(entity in answers),
      (idx['passage'], idx['query']),
      (entity, answers),
    )


def _wic(row):
  texts = []
  for side in '12':
    text = field(row, f'sentence{side}')
    start, end = (
      int(field(row, f'{name}{side}', int)) for name in ('start', 'end')
    )
    if not 0 <= start < end <= len(text):
      raise ValueError(
        f'the word is {start} to {end} of sentence{side}, which has '
        f'{len(text)} characters'
      )
    before, word, after = text[:start], text[start:end], text[end:]
    if word != word.strip() or before[-1:].isalnum() or after[:1].isalnum():
      raise ValueError(
        f'sentence{side} has {word!r} from {start} to {end}, expected a whole '
        'word'
      )
    texts.append(f'{before}* {word} *{after}')
  yield Example(tuple(texts), field(row, 'label', object))


def _wsc(row):
  text = field(row, 'text')
  words = text.split()
  for side, mark in (('1', '*'), ('2', '#')):
    at = field(row, f'span{side}_index', int)
    wanted = field(row, f'span{side}_text')
    at = MISPLACED.get((text, wanted, at), at)
    last = at + len(wanted.split()) - 1
    if not 0 <= at <= last < len(words):
      raise ValueError(
        f'span{side} is words {at} to {last} of a text of {len(words)}'
      )
    there = ' '.join(text.split()[at : last + 1])
    if not _stands_in(wanted, there):
      raise ValueError(
        f'span{side}_index is {at}, where the text has {there!r}; expected '
        f'{wanted!r}'
      )
    words[at] = f'{mark} {words[at]}'
    words[last] = f'{words[last]} {mark}'
  yield Example((' '.join(words),), field(row, 'label', object))


def _stands_in(span, text):
  """Whether a text begins with a span, but for case and punctuation.

  The published files have "the man" for "The man,", and "Emma" for "Emma's".
  """
  words = r'\W+'.join(re.findall(r'\w+', span))
  return re.match(rf'\W*{words}\b', text, re.IGNORECASE)


# Nested JSON -> examples in TFDS' layout --------------------------------------


def _flat(row):
  yield row


def _target(row):
  yield row | field(row, 'target', dict)


def _questions(row):
  passage = field(row, 'passage', dict)
  for i, question in enumerate(field(passage, 'questions', list)):
    for answer in field(question, 'answers', list):
      yield dict(
        paragraph=field(passage, 'text'),
        question=field(question, 'question'),
        answer=field(answer, 'text'),
        label=field(answer, 'label', int),
        idx=dict(paragraph=row['line'], question=i),
      )


def _queries(row):
  passage = field(row, 'passage', dict)
  text = field(passage, 'text')
  spans = [
    (field(e, 'start', int), field(e, 'end', int))  # the last character's place
    for e in field(passage, 'entities', list)
  ]
  for start, end in spans:
    if not 0 <= start <= end < len(text):
      raise ValueError(
        f'an entity is {start} to {end} of a passage of {len(text)} characters'
      )
  for i, question in enumerate(field(row, 'qas', list)):
    answers = field(question, 'answers', list)
    yield dict(
      passage=text,
      query=field(question, 'query'),
      entities=sorted({text[start : end + 1] for start, end in spans}),
      answers=sorted({field(answer, 'text') for answer in answers}),
      idx=dict(passage=row['line'], query=i),
    )


class Layout(NamedTuple):
  """Where a task has its texts and labels.

  Attributes:
    folder: of its files.
    form: function of an example in TFDS' layout -> Examples.
    labels: their values in JSON, in the order of their ids.
    features: what TFDS' examples have.
    flatten: function of a line's JSON -> examples in TFDS' layout.
  """

  folder: str
  form: Callable
  labels: tuple
  features: tuple[str, ...]
  flatten: Callable = _flat


CB = ('entailment', 'contradiction', 'neutral')
RTE = ('entailment', 'not_entailment')
NLI, QA = ('premise', 'hypothesis'), ('passage', 'question')
LAYOUTS = dict(
  boolq=Layout('BoolQ', _two(*QA), BOOLS, QA),
  cb=Layout('CB', _two(*NLI), CB, NLI),
  copa=Layout('COPA', _copa, BITS, ('premise', 'choice1', 'choice2')),
  multirc=Layout(
    'MultiRC', _multirc, BITS, ('paragraph', 'question', 'answer'), _questions
  ),
  record=Layout(
    'ReCoRD',
    _record,
    BITS,
    ('passage', 'query', 'entities', 'answers'),
    _queries,
  ),
  rte=Layout('RTE', _two(*NLI), RTE, NLI),
  wic=Layout('WiC', _wic, BOOLS, ('sentence1', 'sentence2', 'start1', 'end1')),
  wsc=Layout(
    'WSC', _wsc, BOOLS, ('text', 'span1_index', 'span2_index'), _target
  ),
)


def local(name, path, malformed='fatal') -> Parts:
  """A task's parts from a folder of SuperGLUE's folders.

  Args:
    name: a key of LAYOUTS.
    path: the folder that has BoolQ, CB, ...
    malformed: 'fatal', the only one: no line of these files is known to be bad.

  Raises:
    ValueError: no such file; and while iterating: a damaged file, a line that
      is no JSON or lacks something, an unknown label, no example at all.
  """
  if malformed != 'fatal':
    raise ValueError(f'malformed={malformed!r}, SuperGLUE knows only fatal.')
  layout, readers = LAYOUTS[name], {}
  for part in ('train', 'val'):
    wanted = Path(path) / layout.folder / f'{part}.jsonl'
    file = existing(wanted)
    if not file:
      raise ValueError(f'There is no file {wanted}, plain or .gz.')
    readers[part] = functools.partial(_read, file, layout)
  return _parts(readers)


def tfds(name, corpus='super_glue', data_dir=None) -> Parts:
  """The same from TFDS, e.g. 'super_glue/cb'; see `prepared.builder`."""
  layout = LAYOUTS[name]
  builder = prepared.builder(f'{corpus}/{name}', layout.features, data_dir)

  def read(split):
    for row in builder.as_data_source(split=split):
      yield from layout.form(_plain(row))

  return _parts(
    dict(
      train=functools.partial(read, 'train'),
      val=functools.partial(read, 'validation'),
    )
  )


def _parts(readers):
  return Parts(readers, {'': 'val'}, {'': 'val'}, {})


def _plain(value):
  """TFDS' bytes and numpy scalars as JSON has them."""
  if isinstance(value, dict):
    return {key: _plain(x) for key, x in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  if getattr(value, 'ndim', 0) or isinstance(value, (list, tuple)):
    return [_plain(x) for x in value]
  return value.item() if hasattr(value, 'item') else value


def _object(line):
  """The JSON object of a line."""
  try:
    row = json_text.parse(line)
  except json.JSONDecodeError as e:
    raise ValueError(f'no JSON: {e.msg}, column {e.colno}') from e
  if not isinstance(row, dict):
    raise ValueError(f'expected an object, got {line:.40}')
  return row


def _read(path, layout):
  """Yields the Examples of a file."""
  found = _examples(path, layout)
  return text_lines.at_least_one(found, f'{path} has no examples.')


def _examples(path, layout):
  for number, line in text_lines.records(path):
    try:
      for flat in layout.flatten(_object(line) | dict(line=number)):
        for example in layout.form(flat):
          label = label_id(example.label, layout.labels)
          yield example._replace(label=label)
    except ValueError as e:
      raise ValueError(f'{path}, line {number}: {e}.') from e
