# SPDX-License-Identifier: Apache-2.0
"""What the commands share: arguments, and the lines of standard input."""

import argparse
import sys


class Parser(argparse.ArgumentParser):
  """One whose errors are ValueErrors, and which completes no words."""

  def __init__(self, **options):
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **options,
    )

  def error(self, message):
    raise ValueError(message)


def stdin_lines():
  """Yields the lines of standard input without white space around them.

  Raises:
    ValueError: a line is no UTF-8.
  """
  for number, line in enumerate(sys.stdin.buffer, 1):
    try:
      yield line.decode('utf-8').strip()
    except UnicodeDecodeError as e:
      raise ValueError(
        f'Standard input, line {number}: invalid UTF-8 (byte {e.start + 1}).'
      ) from e


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
