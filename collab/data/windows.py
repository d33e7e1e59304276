# SPDX-License-Identifier: Apache-2.0
"""Encodes a question and a window of its paragraph as a row of an encoder.

    <bos> question <eos> window <eos>      type 0 up to the first <eos>, then 1

Windows begin at tokens 0, s, 2s ... of the paragraph until one reaches its end
(Devlin et al., 2019, appendix of the code: "doc stride"). With s at most the
room of a window, no token is left out. Axes: N windows, Q questions.
"""

from typing import NamedTuple

import numpy as np

from collab.data import examples
from collab.data.tokenizer import Tokenizer, each


class Windows(NamedTuple):
  """The windows of all questions, those of a question in sequence.

  Attributes:
    rows: examples.Rows.
    question: int32 [N], the index of the question.
    begin: int32 [N], the paragraph's token at which the window begins.
    spans: int32 [N, 2], positions in the row of the first and last token of the
      question's first answer. It is 0, 0 (<bos>, "not here") where the window
      does not have the whole answer.
    characters: for each question int32 [tokens, 2]: start and end of each token
      in the paragraph.
    truncated: number of questions that were too long.
  """

  rows: examples.Rows
  question: np.ndarray
  begin: np.ndarray
  spans: np.ndarray
  characters: list
  truncated: int

  def text(self, context: str, window: int, first: int, last: int) -> str:
    """Returns the paragraph's text between two positions of a window's row."""
    shift = self.begin[window] - self.rows.second[window]
    places = self.characters[self.question[window]]
    if not len(places):  # the tokenizer drops all of the paragraph
      return ''
    begin, end = places[first + shift, 0], places[last + shift, 1]
    return context[begin:end].strip()


def cut(
  questions: list,
  tokenizer: Tokenizer,
  row_length: int,
  stride: int,
  question_length: int,
) -> Windows:
  """Cuts the paragraphs of questions into windows.

  Args:
    questions: list of squad_files.Question.
    tokenizer: data.tokenizer.Tokenizer.
    row_length: maximum number of tokens of a row.
    stride: tokens from one window to the next.
    question_length: number of tokens of a question that are kept.

  Raises:
    ValueError: the stride would leave tokens out, or a row has no room.
  """
  special = 2 + len(tokenizer.between)
  room = row_length - question_length - special
  if question_length < 1 or not 1 <= stride <= room:
    raise ValueError(
      f'data.stride={stride} and data.question_length={question_length}; '
      f'expected at least 1 and, with data.row_length={row_length} and '
      f'{special} special tokens, together at most {row_length - special}.'
    )
  contexts = list(dict.fromkeys(q.context for q in questions))
  found = each(tokenizer.encode_with_offsets, contexts)
  encoded = dict(zip(contexts, found, strict=True))
  texts = each(tokenizer.encode_batch, (q.text.strip() for q in questions))
  question, begins, spans, characters, truncated = [], [], [], [], 0

  def rows():
    nonlocal truncated
    for i, (q, ids) in enumerate(zip(questions, texts, strict=True)):
      truncated += len(ids) > question_length
      head = [tokenizer.bos_id, *ids[:question_length], *tokenizer.between]
      tokens, places = encoded[q.context]
      characters.append(places)
      room = row_length - len(head) - 1
      over = max(len(tokens) - room, 0)
      answer = _answer(q, places)
      for begin in range(0, over + stride, stride):
        window = tokens[begin : begin + room]
        question.append(i)
        begins.append(begin)
        first, last = answer - begin
        whole = first >= 0 and last < len(window)
        spans.append(len(head) + answer - begin if whole else (0, 0))
        yield [*head, *window, tokenizer.eos_id], len(head)

  return Windows(
    examples.collect(rows()),
    np.array(question, np.int32),
    np.array(begins, np.int32),
    np.array(spans, np.int32).reshape(-1, 2),
    characters,
    truncated,
  )


def _answer(question, places):
  """Finds first and last token of the first answer, int [2]; -1, -1 if none.

  These are the fewest tokens that have all of its characters except surrounding
  blanks. A tokenizer may drop characters; if it drops all of them, there are no
  such tokens.
  """
  if not question.answers:
    return np.array([-1, -1])
  text, start = question.answers[0], question.starts[0]
  begin = start + len(text) - len(text.lstrip())
  end = start + len(text.rstrip())
  first = np.searchsorted(places[:, 1], begin, 'right')
  last = np.searchsorted(places[:, 0], end, 'left') - 1
  return np.array([first, last] if first <= last else [-1, -1])
