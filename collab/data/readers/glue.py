# SPDX-License-Identifier: Apache-2.0
"""GLUE as it is published: a folder of TSV files a task; or prepared by TFDS.

Labels of the public test sets are hidden, so 'val' and 'test' are both the dev
set, as in the papers: the best epoch on it is an optimistic number.

Columns are found by the header, and every line has as many as the header.
Quoting is off. Files may be gzipped (.tsv.gz).
"""

import functools
from pathlib import Path
from typing import NamedTuple

from collab.data.examples import Example, Parts
from collab.data.readers import prepared
from collab.io import text_lines

ENTAILED = ('entailment', 'not_entailment')
MALFORMED = ('fatal', 'skip')
UNDECIDED = '-'  # the label of a pair that its annotators did not agree on


class Table(NamedTuple):
  """Where a task has its texts and labels.

  Attributes:
    folder: of its files.
    texts: columns of one or two texts.
    label: column of the label.
    labels: its values in the order of their ids; () for a number.
    features: names of the texts in TFDS.
    files: choices of (train, dev, perhaps more dev): the first that is there.
    header: columns of files that have none, else ().
  """

  folder: str
  texts: tuple[str, ...]
  label: str = 'label'
  labels: tuple[str, ...] = ('0', '1')
  features: tuple[str, ...] = ('sentence1', 'sentence2')
  files: tuple = (('train.tsv', 'dev.tsv'),)
  header: tuple[str, ...] = ()


PAIR = ('sentence1', 'sentence2')
TABLES = dict(
  cola=Table(
    'CoLA',
    ('sentence',),
    features=('sentence',),
    header=('source', 'label', 'star', 'sentence'),
  ),
  sst2=Table('SST-2', ('sentence',), features=('sentence',)),
  # GLUE made train.tsv and dev.tsv of the original's training set by a list of
  # ids. Without them the original's test set, 1,725 pairs, is the dev set.
  mrpc=Table(
    'MRPC',
    ('#1 String', '#2 String'),
    'Quality',
    files=(
      ('train.tsv', 'dev.tsv'),
      ('msr_paraphrase_train.txt', 'msr_paraphrase_test.txt'),
    ),
  ),
  qqp=Table(
    'QQP',
    ('question1', 'question2'),
    'is_duplicate',
    features=('question1', 'question2'),
  ),
  stsb=Table('STS-B', PAIR, 'score', labels=()),
  mnli=Table(
    'MNLI',
    PAIR,
    'gold_label',
    ('entailment', 'neutral', 'contradiction'),
    ('premise', 'hypothesis'),
    (('train.tsv', 'dev_matched.tsv', 'dev_mismatched.tsv'),),
  ),
  qnli=Table(
    'QNLI',
    ('question', 'sentence'),
    labels=ENTAILED,
    features=('question', 'sentence'),
  ),
  rte=Table('RTE', PAIR, labels=ENTAILED),
  wnli=Table('WNLI', PAIR),
)


def local(name, path, malformed='fatal') -> Parts:
  """A task's parts from a folder of GLUE's folders.

  Args:
    name: a key of TABLES.
    path: the folder that has CoLA, SST-2, ...
    malformed: 'fatal', or 'skip' to leave out and count rows with a wrong
      number of columns, of which QQP is published with a few, or UNDECIDED.

  Raises:
    ValueError: no such folder or file, malformed is neither; and while
      iterating: a damaged file, no header, a row with a wrong number of
      columns, an unknown label, no row at all.
  """
  if malformed not in MALFORMED:
    raise ValueError(
      f'malformed={malformed!r} is none of {", ".join(MALFORMED)}.'
    )
  table, skipped = TABLES[name], {}
  train, *dev = _find(Path(path) / table.folder, table.files)
  read = functools.partial(
    _read, table=table, skip=malformed == 'skip', skipped=skipped
  )
  parts = _evaluated(len(dev))
  readers = {
    part: functools.partial(read, file)
    for part, file in zip(parts.values(), dev, strict=True)
  }
  readers['train'] = functools.partial(read, train)
  return Parts(readers, parts, parts, skipped)


def tfds(name, corpus='glue', data_dir=None) -> Parts:
  """The same from TFDS, e.g. 'glue/sst2'; see `prepared.builder`."""
  table = TABLES[name]
  builder = prepared.builder(
    f'{corpus}/{name}', (*table.features, 'label'), data_dir
  )

  def read(split):
    for row in builder.as_data_source(split=split):
      texts = tuple(row[feature].decode() for feature in table.features)
      yield Example(texts, row['label'].item())

  parts = _evaluated(len(table.files[0]) - 1)
  splits = {part: part.replace('dev', 'validation') for part in parts.values()}
  readers = {
    part: functools.partial(read, split)
    for part, split in dict(train='train', **splits).items()
  }
  return Parts(readers, parts, parts, {})


def _evaluated(count):
  """{name in the metrics: part} of one dev set, or of MNLI's two."""
  if count == 1:
    return {'': 'dev'}
  return dict(m='dev_matched', mm='dev_mismatched')


def _find(folder, choices):
  """Paths of the first choice of which all files are there, plain or .gz."""
  for names in choices:
    found = [existing(folder / name) for name in names]
    if all(found):
      return found
  wanted = '; or '.join(' and '.join(names) for names in choices)
  there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
  raise ValueError(
    f'{folder} has {", ".join(there[:12]) or "nothing"}; expected {wanted}, '
    'plain or .gz.'
  )


def existing(path):
  """The path, or path.gz, or None."""
  zipped = path.with_name(f'{path.name}.gz')
  return next((p for p in (path, zipped) if p.is_file()), None)


def _read(path, table, skip, skipped):
  """Yields the Examples of a file."""
  found = _examples(path, table, skip, skipped)
  return text_lines.at_least_one(found, f'{path} has no examples.')


def _examples(path, table, skip, skipped):
  rows, header, bad = text_lines.records(path), table.header, 0
  if not header:
    _, line = next(rows, (0, ''))
    header = line.split('\t')
  wanted = (*table.texts, table.label)
  if not set(wanted) <= set(header):
    raise ValueError(
      f'{path}, line 1: the header is {", ".join(header) or "missing"}; '
      f'expected {", ".join(wanted)} in it.'
    )
  *texts, label = map(header.index, wanted)
  for number, line in rows:
    columns = line.split('\t')
    if len(columns) != len(header):
      fault = f'{len(columns)} columns, expected {len(header)}'
    elif columns[label] == UNDECIDED:
      fault = f'the label is {UNDECIDED!r}, that of no class'
    else:
      fault = ''
    if fault and not skip:
      raise ValueError(
        f"{path}, line {number}: {fault} (data.malformed='skip' leaves such "
        'rows out).'
      )
    if fault:
      bad += 1
      continue
    try:
      found = label_id(columns[label], table.labels)
    except ValueError as e:
      raise ValueError(f'{path}, line {number}: {e}.') from e
    yield Example(tuple(columns[i] for i in texts), found)
  if bad:
    skipped[str(path)] = bad


def label_id(label, labels):
  """The id of a label, or the number it is (0 to 5) if there are no labels.

  Raises:
    ValueError: the label and the legal ones.
  """
  if labels:
    if label in labels:
      return labels.index(label)
    raise ValueError(
      f'the label is {label!r}, expected {", ".join(map(str, labels))}'
    )
  try:
    number = float(label)
  except ValueError:
    number = -1.0
  if 0 <= number <= 5:
    return number
  raise ValueError(f'the label is {label!r}, expected 0 to 5')
