# SPDX-License-Identifier: Apache-2.0
"""Reads questions on paragraphs: SQuAD's JSON of v1.1 and v2.0, or TFDS.

{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
  "answers": [{"text", "answer_start"}], "is_impossible" (v2.0)}]}]}]}
"""

from collections.abc import Callable
import functools
from pathlib import Path
from typing import NamedTuple

from collab import checks
from collab.data.readers import prepared, split_files
from collab.data.splits import SPLITS
from collab.io import json_text, node_files, text_lines
from collab.io.json_text import field

VERSIONS = ('v1.1', 'v2.0')


class Question(NamedTuple):
  """A question on a paragraph.

  Attributes:
    id: identifier for messages.
    context: the paragraph.
    text: the question.
    answers: texts, each context[start:start + len(answer)]; () if unanswerable.
    starts: starts of the answers, in characters.
  """

  id: str
  context: str
  text: str
  answers: tuple
  starts: tuple


class Questions(NamedTuple):
  """Questions by splits.

  Attributes:
    name: description for people.
    readers: {split: function that reads its questions}.
    expected: what to do when a split is missing, for the error.
  """

  name: str
  readers: dict[str, Callable]
  expected: str = ''

  def read(self, split: str) -> list[Question]:
    """Reads the questions of 'train', 'val' or 'test'.

    SQuAD's own test set is not public. Where there is none, 'test' is 'val',
    which published results use.

    Raises:
      ValueError: no such split, none in it, or an error of the readers.
    """
    if split == 'test' and 'test' not in self.readers:
      split = 'val'
    if split not in self.readers:
      raise ValueError(
        f"{self.name} has no split '{split}', only "
        f'{", ".join(self.readers)}. {self.expected}'
      )
    found = self.readers[split]()
    if not found:
      raise ValueError(f"{self.name}: the split '{split}' has no questions.")
    return found


def local(
  path: str | Path, version: str, files: tuple[str, ...] = ()
) -> Questions:
  """Reads local files, plain or .gz.

  A split is the one file `train*.json`, `dev*.json` (or val*), `test*.json`. If
  several match, the one with the version in its name is used. A single file of
  another name is split by articles: of every ten, the ninth is 'val', the tenth
  'test', and the others 'train'.

  Args:
    path: the folder.
    version: 'v1.1' (each question has an answer) or 'v2.0'.
    files: if given, only these are used: a tuple of 'SPLIT=FILE', or 'all=FILE'
      for one that is split by articles, relative to path.

  Raises:
    ValueError: another version, no folder, no file, or several candidates.
  """
  checks.one_of('data.version', version, VERSIONS)
  folder = node_files.fetched(path)
  expected = (
    f'Expected: train-{version}.json and dev-{version}.json, plain or .gz; or '
    'one *.json to split by articles; or data.files=("train=FILE", "val=FILE") '
    'or ("all=FILE",).'
  )
  names = split_files.names(folder, expected)
  if files:
    legal = *SPLITS, 'all'
    found = split_files.named(folder, files, expected, ('SPLIT=FILE',), legal)
  else:
    found = _find(folder, names, version)
  if not found:
    raise ValueError(f'{folder} has no questions. {expected}')
  if 'all' in found and len(found) > 1:
    raise ValueError(f"data.files names 'all' and others. {expected}")
  readers = {
    split: functools.partial(read, file, version)
    for split, [file] in found.items()
  }
  if one := readers.pop('all', None):
    readers = {split: functools.partial(one, split=split) for split in SPLITS}
  return Questions(str(path), readers, expected)


def _find(folder, names, version):
  """Maps splits to paths by the names of the files."""
  names = [x for x in names if x.removesuffix('.gz').endswith('.json')]
  candidates = [(name,) for name in names]
  found = split_files.by_prefix(folder, candidates, version)
  if not found and len(names) == 1:
    return dict(all=[folder / names[0]])
  return found


# JSON -------------------------------------------------------------------------


def read(path: Path, version: str, split: str = '') -> list[Question]:
  """Reads the questions of a file, or of a split of its articles (see `local`).

  Raises:
    ValueError: damaged gzip or JSON, a missing key, a value of another type, an
      answer that is not where answer_start says, a question without an answer
      in v1.1.
  """
  parts, text = {8: 'val', 9: 'test'}, text_lines.whole(path)
  articles = json_text.parse_object(text, path, data=list)['data']
  with checks.located(path):
    return [
      question
      for i, article in enumerate(articles)
      if split in ('', parts.get(i % 10, 'train'))
      for question in _questions(article, version)
    ]


def _questions(article, version):
  """Yields the questions of an article."""
  for paragraph in field(article, 'paragraphs', list):
    context = field(paragraph, 'context')
    for qa in field(paragraph, 'qas', list):
      with checks.located(f'question {field(qa, "id")}'):
        answers = field(qa, 'answers', list)
        if version == 'v2.0' and 'is_impossible' in qa:
          answers = [] if field(qa, 'is_impossible', bool) else answers
        texts = tuple(field(answer, 'text') for answer in answers)
        starts = tuple(field(answer, 'answer_start', int) for answer in answers)
        question = Question(
          qa['id'], context, field(qa, 'question'), texts, starts
        )
        check(question, version)
      yield question


def check(question: Question, version: str) -> None:
  """Raises ValueError if an answer is missing or not at its place."""
  if not question.context.strip():
    raise ValueError('its paragraph is empty.')
  if version == 'v1.1' and not question.answers:
    raise ValueError('it has no answer; only v2.0 has such questions.')
  for answer, start in zip(question.answers, question.starts, strict=True):
    there = question.context[max(start, 0) : max(start, 0) + len(answer)]
    if start < 0 or there != answer or not answer.strip():
      raise ValueError(
        f'answer_start is {start}, where the paragraph has {there!r}; expected '
        f'{answer!r}.'
      )


# TFDS -------------------------------------------------------------------------


def tfds(name: str, version: str) -> Questions:
  """Reads a TFDS data set whose configurations are the versions, e.g. 'squad'.

  Args:
    name: TFDS name without the configuration.
    version: the configuration.

  Raises:
    ValueError: another version, unknown name, not prepared, other features.
  """
  checks.one_of('data.version', version, VERSIONS)
  name = name and f'{name}/{version}'
  features = ('id', 'context', 'question', 'answers')
  builder = prepared.builder(name, features)

  def reader(split):
    found = [_of_row(**row) for row in prepared.rows(builder, split)]
    for question in found:
      with checks.located(f'{name}, question {question.id}'):
        check(question, version)
    return found

  readers = {
    split: functools.partial(reader, theirs)
    for split, theirs in prepared.splits(builder).items()
  }
  return Questions(name, readers, prepared.how(name))


def _of_row(*, id, context, question, answers, **_):
  texts, starts = answers['text'], answers['answer_start']
  return Question(id, context, question, tuple(texts), tuple(starts))
