# SPDX-License-Identifier: Apache-2.0
"""Shows formulas and examples of docstrings as they stand.

They are indented by two spaces there. Markdown wants four for a block of code.
"""

import re

import griffe

BLOCK = re.compile(r'(?<=\n\n)(?:  .*\n)+(?=\n|$)')


class Blocks(griffe.Extension):
  """Indents the blocks of each docstring that a blank line comes before."""

  def on_object(self, *, obj: griffe.Object, **_) -> None:
    if obj.docstring:
      text = obj.docstring.value + '\n'
      obj.docstring.value = BLOCK.sub(_indented, text)


def _indented(match):
  return re.sub('^  ', '    ', match[0], flags=re.MULTILINE)
