# SPDX-License-Identifier: Apache-2.0
"""One definition of a line, and errors that name what they are about."""

import gzip
import re
import tokenize

from hypothesis import given
from hypothesis import strategies as st
import pytest

from collab.io import text_lines
from tests import tiny

# What str.splitlines ends a line at, and a line of text holds.
WITHIN = '\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'
TEXTS = st.text(st.sampled_from(f'ab \ufeff\r\n{WITHIN}'))


@given(TEXTS)
def test_lines_end_at_newlines_alone(text):
  wanted = re.split('\r?\n', text)
  wanted = wanted[:-1] if wanted[-1] == '' else wanted
  assert list(text_lines.of_bytes(text.encode('utf-8-sig'), 'x')) == wanted


def test_nothing_else_takes_text_apart():
  """str.splitlines has another idea of a line."""
  readers = [*tiny.ROOT.glob('collab/**/*.py'), *tiny.ROOT.glob('*.py')]
  readers.remove(tiny.ROOT / 'collab/runtime/provenance.py')  # of /proc
  calls = []
  for path in readers:
    with path.open('rb') as file:
      for token in tokenize.tokenize(file.readline):
        if token.type == tokenize.NAME and token.string == 'splitlines':
          calls.append((path.name, token.start[0]))
  assert len(readers) > 50
  assert calls == []


@pytest.mark.parametrize('ending', ['', '.gz'])
def test_files(tmp_path, ending):
  path = tmp_path / f'x.txt{ending}'
  pack = gzip.compress if ending else bytes
  path.write_bytes(pack('\ufeffä\r\n\n  \nb\u2028c'.encode()))
  assert list(text_lines.of_path(path)) == ['ä', '', '  ', 'b\u2028c']
  assert list(text_lines.records(path)) == [(1, 'ä'), (4, 'b\u2028c')]
  assert text_lines.whole(path) == 'ä\r\n\n  \nb\u2028c'
  path.write_bytes(pack(b'fine\n\xff\n'))
  with pytest.raises(ValueError, match=f'{path}, line 2: invalid UTF-8'):
    list(text_lines.of_path(path))
  with pytest.raises(ValueError, match=f'{path}, line 2: invalid UTF-8'):
    text_lines.whole(path)
  path.unlink()
  for read in (lambda x: list(text_lines.of_path(x)), text_lines.whole):
    with pytest.raises(ValueError, match=f'{path}: damaged or unreadable'):
      read(path)


def test_what_is_written_is_one_line():
  assert text_lines.one('a\nb\r\nc\rd\u2028') == 'a b c d\u2028'


def test_at_least_one():
  assert list(text_lines.at_least_one(iter('ab'), 'none')) == ['a', 'b']
  assert list(text_lines.at_least_one([0], 'none')) == [0]
  with pytest.raises(ValueError, match='none'):
    list(text_lines.at_least_one(iter(()), 'none'))
