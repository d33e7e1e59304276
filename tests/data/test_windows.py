# SPDX-License-Identifier: Apache-2.0
"""Windows cover a paragraph, and spans of tokens give the answers back."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers as library

from collab.data import tokenizer as tokenizers
from collab.data import tokenizer_training, windows
from collab.data.readers.squad_files import Question
from collab.data.tokenizer import BOS, EOS

TEXT = (
  'the cat saw 12 cats; Zürich 日本語 \U0001f600 naïve e\u0301 (x) "y" 3.5 %'
)
# Unicode without halves of surrogate pairs, blanks of all kinds included.
signs = st.characters(exclude_categories=('Cs',)) | st.sampled_from(TEXT)
contexts = st.text(signs, min_size=1, max_size=60).filter(str.strip)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  return tokenizer_training.train([TEXT] * 3, 320, path)


@pytest.fixture(scope='module')
def letters(tmp_path_factory):
  """No token has more than a byte."""
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  return tokenizer_training.train([TEXT], tokenizer_training.SMALLEST, path)


@pytest.fixture(scope='module')
def dropping(tmp_path_factory):
  """A tokenizer like BERT's, which drops control characters."""
  words = ['[PAD]', '[CLS]', '[SEP]', '[UNK]', '[MASK]', 'who', 'saw', 'it']
  rules = library.Tokenizer(
    library.models.WordLevel({w: i for i, w in enumerate(words)}, '[UNK]')
  )
  rules.normalizer = library.normalizers.BertNormalizer()
  rules.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  path.write_text(rules.to_str())
  return tokenizers.load(path)


def test_an_answer_of_characters_that_are_dropped(dropping):
  """No token has any of it, so it is in no window."""
  context = 'it \x01\x02 saw \x03who'
  asked = [question(context, *span) for span in [(3, 5), (6, 9), (10, 14)]]
  cut = windows.cut(asked, dropping, 20, 4, 5)
  first = cut.rows.second[0]
  wanted = [[0, 0], [first + 1, first + 1], [first + 2, first + 2]]
  assert cut.spans.tolist() == wanted
  assert cut.text(context, 1, *cut.spans[1]) == 'saw'


def test_a_paragraph_of_characters_that_are_dropped(dropping):
  context = '\x01\x02'
  cut = windows.cut([question(context)], dropping, 20, 4, 5)
  assert cut.spans.tolist() == [[0, 0]]
  for place in range(20):
    assert cut.text(context, 0, place, place) == ''


def question(context, begin=0, end=1, text='who saw it', name='q'):
  return Question(name, context, text, (context[begin:end],), (begin,))


def parts(cut, i):
  """A row as (question ids, window ids); its form is checked."""
  row = cut.rows.tokens[cut.rows.offsets[i] : cut.rows.offsets[i + 1]].tolist()
  assert (row[0], row[-1]) == (BOS, EOS)
  second = cut.rows.second[i]
  assert row[second - 1] == EOS
  return row[1 : second - 1], row[second:-1]


@given(
  st.lists(contexts, min_size=1, max_size=3),
  st.integers(1, 7),
  st.integers(1, 5),
  st.integers(0, 9),
)
@settings(deadline=None)
def test_windows_cover_every_token(tokenizer, texts, stride, longest, more):
  length = stride + longest + 3 + more
  asked = [question(c, text='who saw ' * i) for i, c in enumerate(texts)]
  cut = windows.cut(asked, tokenizer, length, stride, longest)
  assert cut.rows.lengths.max() <= length
  assert sorted(set(cut.question)) == list(range(len(texts)))
  assert (np.diff(cut.question) >= 0).all()
  for i, q in enumerate(asked):
    ids = tokenizer.encode(q.context)
    mine = np.flatnonzero(cut.question == i)
    assert cut.begin[mine].tolist() == list(
      range(0, stride * len(mine), stride)
    )
    covered, head = set(), tokenizer.encode(q.text.strip())[:longest]
    for w in mine:
      asks, window = parts(cut, w)
      begin = cut.begin[w]
      assert asks == head
      assert window == ids[begin : begin + len(window)]
      assert len(window) == min(length - 3 - len(head), len(ids) - begin)
      covered |= set(range(begin, begin + len(window)))
    assert covered == set(range(len(ids)))
    # None but the last reaches the end.
    assert all(
      cut.begin[w] + len(parts(cut, w)[1]) < len(ids) for w in mine[:-1]
    )
  told = [len(tokenizer.encode(q.text.strip())) > longest for q in asked]
  assert cut.truncated == sum(told)


@given(contexts, st.data())
@settings(deadline=None)
def test_answers_are_recovered(tokenizer, letters, context, data):
  """Exactly, but for what a token at a border has besides."""
  begin = data.draw(st.integers(0, len(context) - 1))
  end = data.draw(st.integers(begin + 1, len(context)))
  text = context[begin:end]
  # A part of any character decodes to U+FFFD, so one is not told from another.
  if not text.strip() or '\ufffd' in context:
    return
  for rules in (letters, tokenizer):
    cut = windows.cut([question(context, begin, end)], rules, 400, 100, 20)
    ((first, last),) = cut.spans
    assert 0 < first <= last < cut.rows.lengths[0] - 1
    found = cut.text(context, 0, first, last)
    if rules is letters:
      assert found == text.strip()
    assert text.strip() in found
    # One token fewer, at either side, lacks something.
    for a, b in ((first + 1, last), (first, last - 1)):
      if a <= b and (less := cut.text(context, 0, a, b)) != found:
        assert less.count(text.strip()) < found.count(text.strip())


@pytest.mark.parametrize('context', [TEXT, f'  {TEXT}\n', f'Ünï\u00a0{TEXT}x'])
@pytest.mark.parametrize('length', [22, 60, 200])
def test_words_are_recovered_exactly(tokenizer, context, length):
  """Words, wherever they stand and in whichever window."""
  words = [m.span() for m in re.finditer(r'[^\W\d]+|\d', context)]
  spans = [(a, d) for (a, _), (_, d) in zip(words, words[2:], strict=False)]
  asked = [question(context, *span) for span in words + spans]
  cut = windows.cut(asked, tokenizer, length, 5, 8)
  whole = 0
  for w, (first, last) in enumerate(cut.spans):
    q = asked[cut.question[w]]
    if first:
      assert cut.text(context, w, first, last) == q.answers[0]
      whole += 1
    else:
      assert last == 0
  assert whole >= len(words)
  if length == 200:
    assert whole == len(cut.spans) == len(asked)


def test_a_window_without_the_answer_points_at_bos(tokenizer):
  """An answer at the seam is in a window only if all of it is."""
  context = '1234567890' * 3  # a token for each digit and one for the blank
  n = len(tokenizer.encode(context))
  assert n == 31
  cut = windows.cut([question(context, 8, 13, text='who')], tokenizer, 16, 4, 3)
  head = cut.rows.second[0]
  room = 16 - head - 1
  for begin, (first, last) in zip(cut.begin, cut.spans, strict=True):
    if begin <= 9 and begin + room > 13:
      assert (first, last) == (head + 9 - begin, head + 13 - begin)
    else:
      assert (first, last) == (0, 0)
  assert 0 < (cut.spans[:, 0] > 0).sum() < len(cut.spans)


def test_no_answer_and_several(tokenizer):
  none = Question('a', TEXT, 'who?', (), ())
  two = Question('b', TEXT, 'who?', ('cat', 'the'), (4, 0))
  cut = windows.cut([none, two], tokenizer, 200, 10, 10)
  assert cut.spans[0].tolist() == [0, 0]
  assert cut.text(TEXT, 1, *cut.spans[1]) == 'cat'  # the first is learned


def test_questions_of_one_paragraph_share_it(tokenizer):
  asked = [question(TEXT), question('x ' + TEXT), question(TEXT, 4, 7)]
  cut = windows.cut(asked, tokenizer, 200, 10, 10)
  assert cut.characters[0] is cut.characters[2]
  assert cut.text(TEXT, 2, *cut.spans[2]) == 'cat'


@pytest.mark.parametrize(
  'length, stride, longest', [(20, 0, 8), (20, 10, 8), (20, 17, 0), (8, 4, 4)]
)
def test_wrong_lengths(tokenizer, length, stride, longest):
  with pytest.raises(
    ValueError,
    match=f'^data.stride={stride} and data.question_length={longest}; .*'
    f'data.row_length={length} .* together at most {length - 3}',
  ):
    windows.cut([question(TEXT)], tokenizer, length, stride, longest)
