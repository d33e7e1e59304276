# SPDX-License-Identifier: Apache-2.0
"""What the commands share: arguments, paths, the lines of standard input."""

import argparse
import contextlib
import os
import re
import sys

from ml_collections import ConfigDict

from collab.io import text_lines


class Parser(argparse.ArgumentParser):
  """One whose errors are ValueErrors, and which completes no words.

  An argument without a type is one that may be a path: see `path`.
  """

  def __init__(self, **options):
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **options,
    )
    self.register('type', None, path)

  def error(self, message):
    raise ValueError(message)


@contextlib.contextmanager
def errors_in_a_line(prog):
  """Ends the program in the line `prog: ...` where its input is at fault."""
  try:
    yield
  except (ValueError, OSError) as e:
    sys.exit(f'{prog}: {" ".join(str(e).split())}')


def stdin_lines():
  """Yields the lines of standard input without white space around them.

  Raises:
    ValueError: a line is no UTF-8.
  """
  for line in text_lines.of_file(sys.stdin.buffer, 'Standard input'):
    yield line.strip()


def path(text):
  """A path that a user gave, with ~ for the home wherever a path begins.

  Shells know it at the beginning of a word only, and so neither in
  --workdir=~/run nor in train=~/a.en,~/a.de.
  """
  return re.sub(r'(?<![^=,])~[^/=,]*', lambda x: os.path.expanduser(x[0]), text)


def with_paths(config):
  """`path` of all texts of a config: where ~ begins one, it is a path."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      with_paths(value)
    elif isinstance(value, str):
      config[name] = path(value)
    elif isinstance(value, tuple):
      config[name] = tuple(path(x) if isinstance(x, str) else x for x in value)
  return config


def print_lines(prog, lines):
  """Prints a line for each line of input: a text, or what made none of it.

  An exception in the place of a text is an empty line, and is told on standard
  error by its number. So the others are not lost, and lines stay in step.

  Raises:
    ValueError: at the end, if there were exceptions.
  """
  failed = 0
  for number, line in enumerate(lines, 1):
    if isinstance(line, Exception):
      failed += 1
      print(f'{prog}: input, line {number}: {line}.', file=sys.stderr)
      line = ''
    print(line)
  if failed:
    raise ValueError(
      f'{failed} of {len(lines)} lines could not be done; they are empty in '
      'the output.'
    )
