# SPDX-License-Identifier: Apache-2.0
"""Questions on paragraphs: SQuAD's JSON of v1.1 and v2.0, or TFDS.

{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
  "answers": [{"text", "answer_start"}], "is_impossible" (v2.0)}]}]}]}
"""

from collections.abc import Callable
import functools
import json
from pathlib import Path
from typing import NamedTuple

from collab.data.readers import prepared
from collab.io import json_text, text_lines

VERSIONS = ('v1.1', 'v2.0')
SPLITS = ('train', 'val', 'test')
PREFIXES = dict(train=('train',), val=('dev', 'val'), test=('test',))


class Question(NamedTuple):
  """One question.

  Attributes:
    id: for messages.
    context: the paragraph.
    text: of the question.
    answers: each is context[start:start + len(answer)]; none: unanswerable.
    starts: of the answers, in characters.
  """

  id: str
  context: str
  text: str
  answers: tuple
  starts: tuple


class Questions(NamedTuple):
  """Questions by splits.

  Attributes:
    name: what it is, for people.
    readers: split -> function that reads its questions.
    expected: what to do when a split is missing, for the error.
  """

  name: str
  readers: dict[str, Callable]
  expected: str = ''

  def read(self, split) -> list[Question]:
    """The questions of 'train', 'val' or 'test'.

    SQuAD's own test set is not public: where there is none, it is that of
    'val', which published results are for.

    Raises:
      ValueError: no such split, none in it, or what the readers refuse.
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


def local(path, version, files=()) -> Questions:
  """Local files, plain or .gz.

  A split is the one file `train*.json`, `dev*.json` (or val*), `test*.json`; if
  there are several, the one with the version in its name. A lone file of
  another name is split by articles: of ten in a row the ninth is 'val', the
  tenth 'test' and the others 'train'.

  Args:
    path: the folder.
    version: 'v1.1' (each question has an answer) or 'v2.0'.
    files: if given, nothing else is looked for: a tuple of 'SPLIT=FILE', or
      'all=FILE' for one that is split by articles, relative to path.

  Raises:
    ValueError: another version, no folder, no file, several candidates.
  """
  check(version)
  folder = Path(path)
  expected = (
    f'Expected: train-{version}.json and dev-{version}.json, plain or .gz; or '
    'one *.json to split by articles; or data.files=("train=FILE", "val=FILE") '
    'or ("all=FILE",).'
  )
  if not folder.is_dir():
    raise ValueError(f'{folder} is not a folder. {expected}')
  found = _named(folder, files) if files else _matching(folder, version)
  if not found:
    raise ValueError(f'{folder} has no questions. {expected}')
  readers = {
    split: functools.partial(read, file, version)
    for split, file in found.items()
  }
  if one := readers.pop('all', None):
    readers = {split: functools.partial(one, split=split) for split in SPLITS}
  return Questions(str(path), readers, expected)


def check(version):
  """Refuses a version that is none."""
  if version not in VERSIONS:
    raise ValueError(f'version={version!r}; there are {", ".join(VERSIONS)}.')


def _matching(folder, version):
  """split -> path, by the names of the files."""
  names = sorted(
    p.name
    for p in folder.iterdir()
    if p.is_file() and p.name.removesuffix('.gz').endswith('.json')
  )
  found = {}
  for split, prefixes in PREFIXES.items():
    mine = [n for n in names if n.startswith(prefixes)]
    if len(mine) > 1:
      mine = [n for n in mine if version in n] or mine
    if len(mine) > 1:
      raise ValueError(
        f'{folder} has {len(mine)} candidates for {split}, expected one: '
        f'{", ".join(mine)}. Choose by data.files=("{split}={mine[0]}", ...).'
      )
    if mine:
      found[split] = folder / mine[0]
  if not found and len(names) == 1:
    return dict(all=folder / names[0])
  return found


def _named(folder, files):
  """split -> path, as the caller named them."""
  found = {}
  for entry in files:
    split, _, name = entry.partition('=')
    if split not in (*SPLITS, 'all') or not name:
      raise ValueError(
        f"data.files has '{entry}', expected SPLIT=FILE with SPLIT one of "
        f'{", ".join(SPLITS)}, or all=FILE.'
      )
    if split in found or (found and 'all' in (split, *found)):
      raise ValueError(
        f"data.files: '{entry}' is one too many: expected each split once, or "
        '"all" alone.'
      )
    if not (folder / name).is_file():
      raise ValueError(f"data.files: '{entry}': no file {folder / name}.")
    found[split] = folder / name
  return found


# JSON -------------------------------------------------------------------------


def read(path, version, split='') -> list[Question]:
  """The questions of a file, or of a split of its articles, see `local`.

  Raises:
    ValueError: damaged gzip or JSON, a missing key, a value of another type, an
      answer that is not where answer_start says, a question without an answer
      in v1.1.
  """
  parts = {8: 'val', 9: 'test'}
  return [
    q
    for i, article in enumerate(_articles(path))
    if split in ('', parts.get(i % 10, 'train'))
    for q in _questions(path, article, version)
  ]


def _articles(path):
  try:
    found = json_text.parse(text_lines.whole(path))
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{path}, line {error.lineno}: no JSON, or damaged: {error.msg} (column '
      f'{error.colno}).'
    ) from error
  return _get(found, 'data', list, path, '')


def _get(of, key, kind, path, where):
  """of[key], or what is wrong with it."""
  if not isinstance(of, dict) or key not in of:
    got = ', '.join(of) if isinstance(of, dict) else type(of).__name__
    raise ValueError(f"{path}{where}: no '{key}' in an object of: {got}.")
  if type(of[key]) is not kind:
    raise ValueError(
      f"{path}{where}: '{key}' is {type(of[key]).__name__}, expected "
      f'{kind.__name__}.'
    )
  return of[key]


def _questions(path, article, version):
  """Iterates over the questions of an article."""
  for paragraph in _get(article, 'paragraphs', list, path, ', an article'):
    context = _get(paragraph, 'context', str, path, ', a paragraph')
    for qa in _get(paragraph, 'qas', list, path, ', a paragraph'):
      name = _get(qa, 'id', str, path, ', a question')
      get = functools.partial(_get, path=path, where=f', question {name}')
      answers = get(qa, 'answers', list)
      if version == 'v2.0' and 'is_impossible' in qa:
        answers = [] if get(qa, 'is_impossible', bool) else answers
      yield checked(
        Question(
          name,
          context,
          get(qa, 'question', str),
          tuple(get(answer, 'text', str) for answer in answers),
          tuple(get(answer, 'answer_start', int) for answer in answers),
        ),
        version,
        path,
      )


def checked(question, version, name) -> Question:
  """The question, if it is one.

  Raises:
    ValueError: an answer is not in its place, none in v1.1, no Unicode.
  """
  where = f'{name}, question {question.id}'
  if not question.context.strip():
    raise ValueError(f'{where}: its paragraph is empty.')
  if version == 'v1.1' and not question.answers:
    raise ValueError(f'{where} has no answer; only v2.0 has such questions.')
  for text in (question.context, question.text):
    if any('\ud800' <= c <= '\udfff' for c in text):
      raise ValueError(f'{where}: half a surrogate pair, so it is no Unicode.')
  for answer, start in zip(question.answers, question.starts, strict=True):
    there = question.context[max(start, 0) : max(start, 0) + len(answer)]
    if start < 0 or there != answer or not answer.strip():
      raise ValueError(
        f'{where}: answer_start is {start}, where the paragraph has {there!r}; '
        f'expected {answer!r}.'
      )
  return question


# TFDS -------------------------------------------------------------------------


def tfds(name, version, data_dir=None) -> Questions:
  """A data set of TFDS whose configurations are the versions, e.g. 'squad'.

  Args:
    name: of TFDS, without the configuration.
    version: the configuration.
    data_dir: where TFDS keeps its data; None is TFDS' default.

  Raises:
    ValueError: another version, unknown name, not prepared, other features.
  """
  check(version)
  name = f'{name}/{version}'
  features = ('id', 'context', 'question', 'answers')
  builder = prepared.builder(name, features, data_dir)
  splits = dict(train='train', val='validation', test='test')

  def reader(split):
    records = builder.as_data_source(split=splits[split])
    rows = (records[i] for i in range(len(records)))
    return [checked(_of_row(row), version, name) for row in rows]

  return Questions(
    name,
    {
      split: functools.partial(reader, split)
      for split, theirs in splits.items()
      if theirs in builder.info.splits
    },
    prepared.how(name, data_dir),
  )


def _of_row(row):
  answers = row['answers']
  return Question(
    row['id'].decode(),
    row['context'].decode(),
    row['question'].decode(),
    tuple(text.decode() for text in answers['text']),
    tuple(map(int, answers['answer_start'])),
  )
