# SPDX-License-Identifier: Apache-2.0
"""What the fuzz tests share: damage of files, and which errors are ours.

An input is accepted, or refused by an error that this project raises itself:
one line, of ValueError or OSError. Whatever a library raises is a bug of ours,
though a user may understand it by luck.
"""

import copy
import json
import linecache
import os
import pathlib
import traceback

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[2]
CODE = [ROOT / 'collab', ROOT / 'configs', ROOT / 'train.py']
# A temporary folder of all examples is no fault: each writes its own files.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


# COLLAB_FUZZ=20 pytest tests/fuzz looks at 20 times as many as a test says, at
# random; without it at half as many, the same every time.
MORE = int(os.environ.get('COLLAB_FUZZ', '0'))


def fuzz(examples):
  """Settings of a test that says so many examples."""
  return settings(
    max_examples=examples * MORE or examples // 2,
    derandomize=not MORE,
    deadline=None,
    database=None,
    suppress_health_check=SHARED,
  )


class Refused(str):
  """The words of an error of ours."""


def outcome(function, *args, kinds=(ValueError, OSError), **fields):
  """What a function returns, or Refused; whatever else it raises comes out."""
  try:
    return function(*args, **fields)
  except kinds as e:
    error = e
  text = str(error)
  assert raised_by_us(error), ''.join(traceback.format_exception(error))
  assert text.strip(), repr(error)
  assert 'Traceback' not in text
  return Refused(text)


def raised_by_us(error):
  """By a `raise` in this project; of the system also by a call that names it.

  That is what makes 'No such file or directory: DIR/train.en' a good error and
  'invalid literal for int()' none.
  """
  if isinstance(error, OSError) and error.filename:
    return True
  frame = traceback.extract_tb(error.__traceback__)[-1]
  path = pathlib.Path(frame.filename)
  ours = any(path.is_relative_to(code) for code in CODE)
  line = linecache.getline(frame.filename, frame.lineno).strip()
  return ours and line.startswith('raise')


# Bytes ------------------------------------------------------------------------

WORDS = [
  b'', b'\0', b'\n', b'\r\n', b'\t', b'\t\t', b'"', b'{', b'[', b'}', b',',
  b'\xff', b'\xc3', '\ufeff'.encode(), '\u2028'.encode(), b'\xed\xa0\x80',
  b'-1', b'1e999', b'nan', b'9' * 5000, b'[' * 3000, b'null', b'x' * 3000,
]  # fmt: skip
EDITS = st.tuples(
  st.floats(0, 1),  # where
  st.sampled_from(['insert', 'delete', 'flip', 'cut', 'repeat', 'replace']),
  st.integers(1, 40),
  st.sampled_from(WORDS) | st.binary(max_size=4),
)


def edited(data, edits):
  """Bytes after some edits."""
  for where, kind, count, word in edits:
    i = int(where * len(data))
    if kind == 'insert':
      data = data[:i] + word + data[i:]
    elif kind == 'replace':
      data = data[:i] + word + data[i + len(word) :]
    elif kind == 'delete':
      data = data[:i] + data[i + count :]
    elif kind == 'repeat':
      data = data[: i + count] + data[i:]
    elif kind == 'cut':
      data = data[:i]
    elif data:
      i = min(i, len(data) - 1)
      data = data[:i] + bytes([data[i] ^ (1 << count % 8)]) + data[i + 1 :]
  return data


def damaged(*datas):
  """One of some contents of files, with one to three edits."""
  edits = st.lists(EDITS, min_size=1, max_size=3)
  return st.builds(edited, st.sampled_from(datas), edits)


# JSON -------------------------------------------------------------------------

LEAVES = st.sampled_from(
  [
    None, True, False, 0, 1, -1, 2, 7, 10**6, 2**31, 2**63, 10**30, 0.5, -0.5,
    float('nan'), float('inf'), '', 'x', '1', '../x', '/etc/passwd', 'a\0b',
    '\ud800', 'eval', '__import__', [], {}, [[]], [0], ['x'], {'x': 1},
  ]
)  # fmt: skip


def places(value, path=()):
  """The paths of all values within a JSON value, itself included."""
  yield path
  parts = []
  if isinstance(value, dict):
    parts = value.items()
  elif isinstance(value, list):
    parts = enumerate(value)
  for key, part in parts:
    yield from places(part, (*path, key))


def changed(value, where, kind, new):
  """A JSON value of which one part is another, gone, or there twice."""
  value = copy.deepcopy(value)
  paths = list(places(value))
  *path, last = paths[int(where * (len(paths) - 1))] or (None,)
  if last is None:
    return new
  of = value
  for key in path:
    of = of[key]
  if kind == 'delete':
    del of[last]
  elif kind == 'add':
    of[last] = [of[last], new] if isinstance(of, dict) else new
    if isinstance(of, dict):
      of['more'] = new
  else:
    of[last] = new
  return value


def other_json(*values):
  """One of some JSON values with one or two changes, as bytes."""
  change = st.tuples(
    st.floats(0, 1), st.sampled_from(['set', 'delete', 'add']), LEAVES
  )

  def apply(value, changes):
    for one in changes:
      value = changed(value, *one)
    return json.dumps(value).encode()

  changes = st.lists(change, min_size=1, max_size=2)
  return st.builds(apply, st.sampled_from(values), changes)


def json_files(*values):
  """Other values, and other bytes."""
  texts = [json.dumps(value).encode() for value in values]
  return other_json(*values) | damaged(*texts)
