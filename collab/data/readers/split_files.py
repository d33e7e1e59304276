# SPDX-License-Identifier: Apache-2.0
"""Finds the files of each split in a folder, by name or as the user says."""

from collections.abc import Iterable, Mapping
import hashlib
from pathlib import Path
import re

from collab.data.splits import SPLITS

# Maps words in a file's name to the split.
WORDS = dict(train='train', test='test') | dict.fromkeys(
  ('val', 'valid', 'validation', 'dev'), 'val'
)
PREFIXES = dict(train=('train',), val=('val', 'dev'), test=('test',))


def names(folder: Path, expected: str) -> list[str]:
  """Lists a folder's files that are not hidden; a ValueError if it is none."""
  if not folder.is_dir():
    wrong = 'is not a folder' if folder.exists() else 'does not exist'
    raise ValueError(f'data.path: {folder} {wrong}. {expected}')
  files = (p.name for p in folder.iterdir() if p.is_file())
  # Notebooks and systems leave hidden files.
  return sorted(name for name in files if not name.startswith('.'))


def plain_or_gz(path: Path) -> Path | None:
  """Returns the path, or path.gz, or None if neither is a file."""
  packed = path.with_name(f'{path.name}.gz')
  return next((p for p in (path, packed) if p.is_file()), None)


def by_prefix(
  folder: Path, candidates: Iterable[tuple[str, ...]], prefer: str = ''
) -> dict[str, list[Path]]:
  """Finds the files of each split, which begin with train, val, dev or test.

  Args:
    folder: folder of the files.
    candidates: names of files that together may be a split.
    prefer: if several match, those with this text in the name are used.

  Raises:
    ValueError: several candidates for a split.
  """
  found = {}
  for split, prefixes in PREFIXES.items():
    ours = [x for x in candidates if x[0].startswith(prefixes)]
    ours = [x for x in ours if prefer in x[0]] or ours
    if len(ours) > 1:
      raise ValueError(
        f'{folder} has {len(ours)} candidates for {split}, expected one: '
        f'{"; ".join(map(" and ".join, ours))}. Choose by '
        f'data.files=("{split}={",".join(ours[0])}", ...).'
      )
    if ours:
      found[split] = [folder / name for name in ours[0]]
  return found


def by_word(named: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
  """Finds the files of each split by a word in their names.

  Args:
    named: {name, as wiki.train.raw or data/train-1.csv: files}.

  Raises:
    ValueError: a name has words of several splits.
  """
  found = {}
  for name, paths in named.items():
    splits = sorted({WORDS[x] for x in re.split('[._/-]', name) if x in WORDS})
    if len(splits) > 1:
      raise ValueError(f'{paths[0]} names several splits: {", ".join(splits)}.')
    for split in splits:
      found.setdefault(split, []).extend(paths)
  return found


def identity(paths: Iterable[Path]) -> str:
  """Returns a text that changes when the files may have."""
  stats = ((p.resolve(), p.stat()) for p in paths)
  parts = [f'{p} {stat.st_size} {stat.st_mtime_ns}' for p, stat in stats]
  return f'files-{hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}'


def named(
  folder: Path,
  files: Iterable[str],
  expected: str,
  forms: tuple[str, ...],
  splits: tuple[str, ...] = SPLITS,
) -> dict[str, list[Path]]:
  """Finds the files of each split that data.files names.

  Args:
    folder: folder of the files.
    files: entries 'SPLIT=FILE' or 'SPLIT=FILE,FILE'.
    expected: what a folder should have, for errors.
    forms: the legal entries, the one with the most files first; for errors.
    splits: the legal splits.

  Raises:
    ValueError: an entry of another form, a split or a file that is named
      twice, a file that does not exist.
  """
  found, seen = {}, set()
  for entry in files:
    split, _, rest = entry.partition('=')
    paths = [folder / name for name in rest.split(',')]
    if split not in splits or not rest or len(paths) > len(forms):
      raise ValueError(
        f"data.files has '{entry}', expected {' or '.join(forms)} with SPLIT "
        f'one of {", ".join(splits)}.'
      )
    if split in found:
      raise ValueError(f"data.files names '{split}' twice.")
    for path in paths:
      if not path.is_file():
        raise ValueError(f"data.files: '{entry}': no file {path}. {expected}")
      if path.resolve() in seen:
        raise ValueError(f'data.files names {path} twice.')
      seen.add(path.resolve())
    found[split] = paths
  return {split: found[split] for split in splits if split in found}
