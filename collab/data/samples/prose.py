# SPDX-License-Identifier: Apache-2.0
"""The sample of running text: what Python's help() says of its topics.

English prose that ships with Python. The checksum of a topic's name decides its
split. Topics quote each other: the lines of five words or more that val or test
have are left out of training, and those that test has, out of val.
"""

import functools
import platform

from collab.data.splits import SPLITS, by_checksum
from collab.io import text_lines

FINGERPRINT = f'topics-{platform.python_version()}'


def lines(split: str):
  """Yields the lines of a split."""
  later = SPLITS[SPLITS.index(split) + 1 :]
  known = {line.strip() for x in later for line in _topics(x)}
  for line in _topics(split):
    if len(line.split()) < 5 or line.strip() not in known:
      yield line


@functools.cache
def _topics(split):
  """All lines of the topics of a split, topics in alphabetical order."""
  from pydoc_data.topics import topics  # not every installation has it

  names = [x for x in sorted(topics) if by_checksum(x) == split]
  return [
    line
    for name in names
    for line in text_lines.of_bytes(topics[name].encode(), name)
  ]
