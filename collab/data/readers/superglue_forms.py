# SPDX-License-Identifier: Apache-2.0
"""Turns the rows of SuperGLUE's tasks into labelled texts.

A form is a function of a row in TFDS' layout that yields Examples, with the
label as in the row. The layouts leave some things open; we follow common usage:

  WiC       the word stands between asterisks in both sentences
  WSC       one text, with the noun between asterisks and the pronoun between
            hashes
  COPA      the premise and the question in words; then a choice
  MultiRC, BoolQ, ReCoRD
            the passage first, the question (and answer) second
  ReCoRD    one example for each entity of the passage, which replaces
            @placeholder; the most probable entity of a question is the answer
"""

from collections.abc import Callable, Iterator
import re

from collab.data.examples import Example
from collab.io.json_text import field

COPA = dict(
  cause='What was the cause of this?', effect='What happened as a result?'
)
PLACEHOLDER = '@placeholder'
# In the published val.jsonl of WSC, one pronoun stands a word too early.
MISPLACED = {
  (
    'When they had eventually calmed down a bit , and had gotten home, Mr. '
    'Farley put the magic pebble in an iron safe . Some day they might want to '
    'use it , but really for now, what more could they wish for?',
    'it',
    30,
  ): 31
}


def two(first: str, second: str) -> Callable:
  """Makes the form of a pair of texts, from their names: BoolQ, CB, RTE."""

  def form(row):
    texts = field(row, first), field(row, second)
    yield Example(texts, field(row, 'label', object))

  return form


def copa(row: dict) -> Iterator[Example]:
  """Yields the premise with its question, then the choices."""
  question = field(row, 'question')
  if question not in COPA:
    raise ValueError(f'question is {question!r}, expected {", ".join(COPA)}.')
  premise = f'{field(row, "premise")} {COPA[question]}'
  texts = premise, field(row, 'choice1'), field(row, 'choice2')
  yield Example(texts, field(row, 'label', object))


def multirc(row: dict) -> Iterator[Example]:
  """Yields a paragraph, and a question with one of its answers."""
  idx = field(row, 'idx', dict)
  second = f'{field(row, "question")} {field(row, "answer")}'
  yield Example(
    (field(row, 'paragraph'), second),
    field(row, 'label', object),
    (idx['paragraph'], idx['question']),
  )


def record(row: dict) -> Iterator[Example]:
  """Yields a passage, and a query with each entity in its placeholder."""
  passage = ' '.join(field(row, 'passage').replace('@highlight', ' ').split())
  idx, query = field(row, 'idx', dict), field(row, 'query')
  if PLACEHOLDER not in query:
    raise ValueError(f'query is {query!r}, expected {PLACEHOLDER} in it.')
  answers = tuple(row['answers'])
  if not answers:
    raise ValueError('answers is empty, expected one at least.')
  # A passage without entities cannot be answered, but counts in the score.
  for entity in row['entities'] or ['']:
    yield Example(
      (passage, query.replace(PLACEHOLDER, entity)),
      int(entity in answers),
      (idx['passage'], idx['query']),
      (entity, answers),
    )


def wic(row: dict) -> Iterator[Example]:
  """Yields two sentences in which the same word is marked."""
  texts = _marked(row, '1'), _marked(row, '2')
  yield Example(texts, field(row, 'label', object))


def _marked(row, side):
  """Marks the word of sentence 1 or 2 of WiC with asterisks."""
  text = field(row, f'sentence{side}')
  start, end = (field(row, f'{x}{side}', int) for x in ('start', 'end'))
  if not 0 <= start < end <= len(text):
    raise ValueError(
      f'the word is {start} to {end} of sentence{side}, which has {len(text)} '
      'characters.'
    )
  before, word, after = text[:start], text[start:end], text[end:]
  if word != word.strip() or before[-1:].isalnum() or after[:1].isalnum():
    raise ValueError(
      f'sentence{side} has {word!r} from {start} to {end}, expected a whole '
      'word.'
    )
  return f'{before}* {word} *{after}'


def wsc(row: dict) -> Iterator[Example]:
  """Yields a text in which a noun and a pronoun are marked."""
  text = field(row, 'text')
  words, marked = text.split(), text.split()
  for side, mark in (('1', '*'), ('2', '#')):
    at = field(row, f'span{side}_index', int)
    wanted = field(row, f'span{side}_text')
    at = MISPLACED.get((text, wanted, at), at)
    last = at + len(wanted.split()) - 1
    if not 0 <= at <= last < len(words):
      raise ValueError(
        f'span{side} is words {at} to {last} of a text of {len(words)}.'
      )
    there = ' '.join(words[at : last + 1])
    if not _begins_with(there, wanted):
      raise ValueError(
        f'span{side}_index is {at}, where the text has {there!r}; expected '
        f'{wanted!r}.'
      )
    marked[at] = f'{mark} {marked[at]}'
    marked[last] = f'{marked[last]} {mark}'
  yield Example((' '.join(marked),), field(row, 'label', object))


def _begins_with(text, span):
  """Returns whether a text begins with a span, ignoring case and punctuation.

  The published files have "the man" for "The man,", and "Emma" for "Emma's".
  """
  words = r'\W+'.join(re.findall(r'\w+', span))
  return words and re.match(rf'\W*{words}\b', text, re.IGNORECASE)


# A line's JSON -> rows in TFDS' layout ----------------------------------------


def flat(row: dict, number: int) -> Iterator[dict]:
  """Yields the row of a line that already has the layout."""
  yield row


def target(row: dict, number: int) -> Iterator[dict]:
  """Yields the row of a line of WSC."""
  yield row | field(row, 'target', dict)


def questions(row: dict, number: int) -> Iterator[dict]:
  """Yields the rows of a line of MultiRC, one for each answer."""
  passage = field(row, 'passage', dict)
  for i, question in enumerate(field(passage, 'questions', list)):
    for answer in field(question, 'answers', list):
      yield dict(
        paragraph=field(passage, 'text'),
        question=field(question, 'question'),
        answer=field(answer, 'text'),
        label=field(answer, 'label', int),
        idx=dict(paragraph=number, question=i),
      )


def queries(row: dict, number: int) -> Iterator[dict]:
  """Yields the rows of a line of ReCoRD, one for each query."""
  passage = field(row, 'passage', dict)
  text, entities = field(passage, 'text'), set()
  for entity in field(passage, 'entities', list):
    start, last = field(entity, 'start', int), field(entity, 'end', int)
    if not 0 <= start <= last < len(text):
      raise ValueError(
        f'an entity is {start} to {last} of a passage of {len(text)} '
        'characters.'
      )
    entities.add(text[start : last + 1])
  for i, query in enumerate(field(row, 'qas', list)):
    answers = field(query, 'answers', list)
    yield dict(
      passage=text,
      query=field(query, 'query'),
      entities=sorted(entities),
      answers=sorted({field(answer, 'text') for answer in answers}),
      idx=dict(passage=number, query=i),
    )
