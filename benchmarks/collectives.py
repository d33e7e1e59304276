# SPDX-License-Identifier: Apache-2.0
"""Counts what the collectives of a compiled program send."""

import math
import re

KINDS = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
  'collective-permute',
)  # fmt: skip
_LINE = re.compile(rf'= (.+?) ({"|".join(KINDS)})(?:-start)?\(')
_ARRAY = re.compile(r'\b[a-z]+(\d+)\[([\d,]*)\]')


def of_program(hlo: str) -> list[tuple[str, int, int]]:
  """Finds [(kind, bytes of the result, chips)] of a program's collectives."""
  found = []
  for line in hlo.splitlines():
    if match := _LINE.search(line):
      arrays = _ARRAY.findall(match[1])
      size = sum(
        int(bits) // 8 * math.prod(map(int, filter(None, shape.split(','))))
        for bits, shape in arrays
      )
      found.append((match[2], size, _group(line)))
  return found


def sent(kind: str, size: int, n: int) -> float:
  """Returns the bytes that a chip sends in a collective, by ring algorithms."""
  times = {
    'all-reduce': 2 * (n - 1) / n,
    'all-gather': (n - 1) / n,
    'reduce-scatter': n - 1,  # its result is one n-th of the input
    'all-to-all': (n - 1) / n,
    'collective-permute': 1,
  }
  return times[kind] * size


def _group(line):
  """Returns how many chips take part in a collective.

  The forms are mesh['a'=8,'b'=1] {'a'}, [1,8]<=[8] and {{0,1,...}}.
  """
  groups = line.partition('replica_groups=')[2]
  if match := re.match(r'mesh\[(.*?)\] ?\{(.*?)\}', groups):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    return math.prod(int(sizes[x]) for x in re.findall(r"'(\w+)'", match[2]))
  if match := re.match(r'\[\d+,(\d+)\]', groups):
    return int(match[1])
  if match := re.match(r'\{\{([\d,]+)\}', groups):
    return len(match[1].split(','))
  raise ValueError(f'No replica_groups that we know: {groups[:60]}')
