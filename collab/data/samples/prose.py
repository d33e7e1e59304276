# SPDX-License-Identifier: Apache-2.0
"""The bundled sample of running text: the topics of Python's help().

This is English prose that ships with Python. The checksum of a topic's name
decides its split. Topics quote each other. So lines of five words or more are
left out of training if val or test has them, and out of val if test has them.
"""

from collections.abc import Iterator
import functools
import platform

from collab.data.splits import SPLITS, by_checksum
from collab.io import text_lines

FINGERPRINT = f'topics-{platform.python_version()}'


def lines(split: str) -> Iterator[str]:
  """Yields the lines of a split."""
  later = SPLITS[SPLITS.index(split) + 1 :]
  known = {line.strip() for x in later for line in _topics(x)}
  for line in _topics(split):
    if len(line.split()) < 5 or line.strip() not in known:
      yield line


@functools.cache
def _topics(split):
  """Returns the lines of a split's topics, in alphabetical order of topics."""
  from pydoc_data.topics import topics  # some installations lack it

  names = [x for x in sorted(topics) if by_checksum(x) == split]
  return [
    line
    for name in names
    for line in text_lines.of_bytes(topics[name].encode(), name)
  ]
