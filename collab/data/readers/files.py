# SPDX-License-Identifier: Apache-2.0
"""Local parallel text: which files belong to a split, and their lines."""

from itertools import zip_longest
from pathlib import Path

from collab.io import text_lines

PREFIXES = {
  'train': ('train',),
  'val': ('val', 'dev'),
  'test': ('test',),
}


def find(path, source, target, files=()):
  """Finds the files of each split; see `sources.parallel`.

  Returns:
    A dict of split to its one path (TSV) or two (source, target), and a
    sentence on what was expected and what is there, for later errors.
  """
  folder = Path(path)
  expected = (
    f'Expected: train.{source} and train.{target}, val.* (or valid.*, dev.*), '
    f'test.*; or train.tsv, ... with columns {source} TAB {target}; plain or '
    '.gz; or data.files=("train=SOURCE_FILE,TARGET_FILE", "val=...", ...).'
  )
  if source == target:
    raise ValueError(f"source and target are both '{source}': expected two.")
  if not folder.is_dir():
    raise ValueError(f'{folder} is not a folder. {expected}')
  names = sorted(p.name for p in folder.iterdir() if p.is_file())
  expected += f' There: {_some(names)}.'
  if files:
    found = _named(folder, files, expected)
  else:
    found = _matching(folder, names, source, target)
  if not found:
    raise ValueError(f'{folder} has no parallel text. {expected}')
  return found, expected


def _some(names, most=12):
  """File names for an error, not too many of them."""
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return (', '.join(names[:most]) or 'nothing') + more


def _plain(name):
  return name.removesuffix('.gz')


def _stems(names, side):
  """stem -> name of the files `stem.side` and `stem.side.gz`."""
  mine = [n for n in names if _plain(n).endswith(f'.{side}')]
  stems = {_plain(n).removesuffix(f'.{side}'): n for n in mine}
  if len(stems) < len(mine):
    both = sorted(set(mine) - set(stems.values()))[0]
    raise ValueError(f'There are both {both} and {both}.gz: expected one.')
  return stems


def _matching(folder, names, source, target):
  """split -> its one or two paths, by the names of the files."""
  found = {}
  for split, prefixes in PREFIXES.items():
    mine = [n for n in names if n.startswith(prefixes)]
    sides = [_stems(mine, side) for side in (source, target)]
    candidates = [(n,) for n in _stems(mine, 'tsv').values()]
    for stem in sorted(sides[0].keys() | sides[1].keys()):
      pair = tuple(side.get(stem) for side in sides)
      if None in pair:
        there, missing = (source, target) if pair[0] else (target, source)
        raise ValueError(
          f'{folder} has {stem}.{there}, but no {stem}.{missing} to go with it.'
        )
      candidates.append(pair)
    if len(candidates) > 1:
      listed = '; '.join(' and '.join(c) for c in candidates)
      raise ValueError(
        f'{folder} has {len(candidates)} candidates for {split}, expected one: '
        f'{listed}. Choose by data.files=("{split}={",".join(candidates[0])}", '
        '...).'
      )
    if candidates:
      found[split] = [folder / n for n in candidates[0]]
  return found


def _named(folder, files, expected):
  """split -> its one or two paths, as the caller named them."""
  found = {}
  for entry in files:
    split, equals, rest = entry.partition('=')
    paths = [folder / n for n in rest.split(',')]
    if split not in PREFIXES or not equals or len(paths) > 2:
      raise ValueError(
        f"data.files has '{entry}', expected SPLIT=SOURCE_FILE,TARGET_FILE or "
        f'SPLIT=TSV_FILE with SPLIT one of {", ".join(PREFIXES)}.'
      )
    if split in found:
      raise ValueError(f"data.files names '{split}' twice.")
    for p in paths:
      if not p.is_file():
        raise ValueError(f"data.files: '{entry}': no file {p}. {expected}")
    found[split] = paths
  return {split: found[split] for split in PREFIXES if split in found}


def read(paths, dropped):
  """Rows (source, target, category) of one TSV or of two files of lines.

  Args:
    paths: one or two paths.
    dropped: a dict that gets the number of empty lines of each file, at the end
      of the iteration.
  """
  empty = dict.fromkeys((p.name for p in paths), 0)
  for row in _read_tsv(*paths) if len(paths) == 1 else _read_two(*paths):
    sides = [text.strip() for text in row[:2]]
    if all(sides):
      yield (*sides, row[2].strip())
      continue
    for p, text in zip(paths, sides if len(paths) == 2 else [''], strict=True):
      empty[p.name] += not text
  dropped.update(empty)


def _read_tsv(path):
  for number, line in enumerate(text_lines.of_path(path), 1):
    columns = line.split('\t')
    if not line.strip():
      columns = ['', '']
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
