# SPDX-License-Identifier: Apache-2.0
"""Finds and reads parallel text in local files."""

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from collab.data.readers import split_files
from collab.io import text_lines

FORMS = 'SPLIT=SOURCE_FILE,TARGET_FILE', 'SPLIT=TSV_FILE'  # of data.files
MOST = 12  # number of file names in an error message


def find(
  path: str | Path, source: str, target: str, files: tuple[str, ...] = ()
) -> tuple[dict[str, list[Path]], str]:
  """Finds the files of each split; see `sources.parallel`.

  Returns:
    A dict of split to its one path (TSV) or two (source, target), and a
    sentence for errors about the files that are expected and those that exist.
  """
  folder = Path(path)
  expected = (
    f'Expected: train.{source} and train.{target}, val.* (or valid.*, dev.*), '
    f'test.*; or train.tsv, ... with columns {source} TAB {target}; plain or '
    '.gz; or data.files=("train=SOURCE_FILE,TARGET_FILE", "val=...", ...).'
  )
  if source == target:
    raise ValueError(
      f'data.source and data.target are both {source!r}; expected two.'
    )
  names = split_files.names(folder, expected)
  more = f' and {len(names) - MOST} more' if len(names) > MOST else ''
  expected += f' There: {", ".join(names[:MOST]) or "nothing"}{more}.'
  if files:
    found = split_files.named(folder, files, expected, FORMS)
  else:
    found = split_files.by_prefix(
      folder, _candidates(folder, names, source, target)
    )
  if not found:
    raise ValueError(f'{folder} has no parallel text. {expected}')
  return found, expected


def _candidates(folder, names, source, target):
  """Yields the names of one TSV file or of two sides, for any split."""
  prefixes = tuple(chain.from_iterable(split_files.PREFIXES.values()))
  names = [name for name in names if name.startswith(prefixes)]
  first, second = (_stems(names, side) for side in (source, target))
  for stem in sorted(first.keys() ^ second.keys()):
    there, missing = (source, target) if stem in first else (target, source)
    raise ValueError(
      f'{folder} has {stem}.{there}, but no {stem}.{missing} to go with it.'
    )
  pairs = [(first[stem], second[stem]) for stem in sorted(first)]
  return [(name,) for name in _stems(names, 'tsv').values()] + pairs


def _stems(names, side):
  """Returns {stem: name} of the files `stem.side` and `stem.side.gz`."""
  found = {}
  for name in names:
    plain = name.removesuffix('.gz')
    if plain.endswith(f'.{side}'):
      stem = plain.removesuffix(f'.{side}')
      if other := found.get(stem):
        raise ValueError(f'There are both {other} and {name}: expected one.')
      found[stem] = name
  return found


def read(
  paths: list[Path], dropped: dict[str, int]
) -> Iterator[tuple[str, str, str]]:
  """Yields rows (source, target, category) of one TSV or two files of lines.

  Args:
    paths: one or two paths.
    dropped: a dict that receives the number of empty lines of each file at the
      end of the iteration.
  """
  empty = dict.fromkeys((p.name for p in paths), 0)
  for row in _read_tsv(*paths) if len(paths) == 1 else _read_two(*paths):
    source, target, category = map(str.strip, row)
    if source and target:
      yield source, target, category
      continue
    for p, text in zip(paths, (source, target), strict=False):
      empty[p.name] += len(paths) == 1 or not text
  dropped.update(empty)


def _read_tsv(path):
  for number, line in enumerate(text_lines.of_path(path), 1):
    columns = line.split('\t')
    if not line.strip():
      columns = '', ''
    if len(columns) not in (2, 3):
      raise ValueError(
        f'{path}, line {number}: {len(columns)} columns, expected 2 (source '
        'TAB target) or 3 (and a category).'
      )
    yield (*columns, '')[:3]


def _read_two(*paths):
  sides = [text_lines.of_path(p) for p in paths]
  for number, (source, target) in enumerate(zip_longest(*sides)):
    if source is None or target is None:
      counts = [number] * 2
      longer = int(source is None)
      counts[longer] += 1 + sum(1 for _ in sides[longer])
      raise ValueError(
        f'{paths[0]} has {counts[0]} lines and {paths[1]} {counts[1]}: they '
        'must be translations line by line; line '
        f'{min(counts) + 1} has no other side.'
      )
    yield source, target, ''
