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
