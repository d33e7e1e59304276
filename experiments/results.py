# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the committed results: rows of runs, and their examples.

  results/<study>.jsonl                the row that train.py writes, and study,
                                       arm, examples; source, of converted ones
  results/<study>/<run>.json.gz        examples.json of the run's workdir

Many processes may write. A lock on the study's folder orders them. The folder
of all results cannot be locked, because atomic writes lock it.
"""

from collections.abc import Mapping
import gzip
import json
import math
import os
import pathlib
import time
import zlib

from collab import checks
from collab.io import atomic, json_text
from collab.runtime import provenance
from experiments import study


def rows(path: pathlib.Path, **fields: type) -> list[dict]:
  """Reads the rows of a .jsonl file, [] if there is no file.

  Args:
    path: pathlib.Path.
    **fields: {name: type} that each row must have.

  Raises:
    ValueError: a row is damaged; the message names file and line.
  """
  text, found = path.read_bytes() if path.exists() else b'', []
  for number, line in enumerate(text.splitlines(), 1):
    where = f'{path}, line {number}'
    row = json_text.parse_object(line, where, **fields)
    if 'arm' in row:
      json_text.require(row, where, arm=str, seed=int, examples=str)
    found.append(row)
  return found


def find(
  run: study.Run, planned: study.Run, name: str, folder: str | pathlib.Path
) -> dict | None:
  """Finds the row of a run: its study's own, else one that train.py wrote.

  Args:
    run: study.Run.
    planned: the same run with the folder names that a row shows, so that a row
      does not depend on where the data is.
    name: name of the study.
    folder: folder of all results.
  """
  folder, hashes = pathlib.Path(folder), study.hashes(planned)
  for row in rows(folder / f'{name}.jsonl'):
    own = row.get('arm') == run.arm.name and row['seed'] == run.seed
    if own and row.get(_key(run)) in hashes:
      return row
  if run.source:
    return None
  hashes = study.hashes(run)
  for path in sorted(folder.glob('*.jsonl')):
    for row in rows(path):
      # A row whose config changed during the run belongs to no config.
      same = row.get('seed') == run.seed and row.get('config_hash') in hashes
      if same and not {'arm', 'changes'} & row.keys():
        return row
  return None


def record(
  run: study.Run,
  planned: study.Run,
  result: Mapping,
  name: str,
  folder: str | pathlib.Path,
) -> None:
  """Writes the row of a run in place of an older one, and its examples.

  Args:
    run: study.Run.
    planned: the same run, as in `find`.
    result: result of train.py: result.json, or a row of it.
    name: name of the study.
    folder: folder of all results.
  """
  folder, row = pathlib.Path(folder), dict(result, command=study.text(planned))
  trained = row['config_hash'], run.seed
  row |= dict(study=name, arm=run.arm.name, seed=run.seed)
  row |= {_key(run): study.config_hash(planned), 'examples': ''}
  (folder / name).mkdir(parents=True, exist_ok=True)
  examples = pathlib.Path(run.workdir) / 'examples.json'
  if examples.exists():
    row['examples'] = f'{name}/{run.name}.json.gz'
    # Without a date, so that the same run gives the same file.
    text = gzip.compress(examples.read_bytes(), mtime=0)
    new = folder / f'{row["examples"]}.{os.getpid()}'
    new.write_bytes(text)
    new.replace(folder / row['examples'])
  path = folder / f'{name}.jsonl'
  with atomic.locked(folder / name) as alone:
    if not alone:
      raise OSError(f'{folder / name} cannot be locked; no row is written.')
    kept = rows(path)
    own = {(x['arm'], x['seed']): x for x in kept if 'arm' in x}
    own[row['arm'], row['seed']] = row
    others = [x for x in kept if 'arm' not in x]
    if not run.source:  # the row that train.py wrote for it
      key = 'config_hash', 'seed'
      others = [x for x in others if tuple(map(x.get, key)) != trained]
    ordered = others + [own[key] for key in sorted(own)]
    atomic.write_text(path, ''.join(json.dumps(x) + '\n' for x in ordered))


def about(words: str) -> dict:
  """Returns fields on how a row was made: command, date, versions."""
  date = time.strftime('%Y-%m-%d')
  return dict(command=words, date=date, versions=provenance.versions())


def examples(row: dict, folder: str | pathlib.Path) -> dict | None:
  """Reads a row's data on each example, {name: list} or None."""
  if not row.get('examples'):
    return None
  path = pathlib.Path(folder) / row['examples']
  if not path.resolve().is_relative_to(pathlib.Path(folder).resolve()):
    raise ValueError(f'The examples {row["examples"]} are not in {folder}.')
  if not path.exists():
    raise ValueError(
      f'{path} is missing, the examples of {row.get("arm")} with seed '
      f'{row.get("seed")}.'
    )
  kinds = EOFError, zlib.error, gzip.BadGzipFile
  with checks.located(f'{path} is damaged', kinds):
    text = gzip.decompress(path.read_bytes())
  return json_text.parse_object(text, path)


def as_float(value: object) -> float:
  """Converts a metric to a float, nan if it is missing or not a number."""
  try:
    return float(value)
  except (TypeError, ValueError, OverflowError):
    return math.nan


def _key(run):
  """Returns the field of a row with the hash that identifies its run."""
  return 'source' if run.source else 'config_hash'
