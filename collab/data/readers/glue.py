# SPDX-License-Identifier: Apache-2.0
"""Reads GLUE: its published TSV files, one folder a task, or TFDS.

Labels of the public test sets are hidden. So 'val' and 'test' are both the dev
set, as in the papers, and the score of the best epoch on it is optimistic.

Columns are found by the header, and every line has to have all of them. Quoting
is off. Files may be gzipped (.tsv.gz).
"""

import functools
from pathlib import Path
import re
from typing import NamedTuple

from collab import checks
from collab.data.examples import Example, Parts
from collab.data.readers import prepared, split_files
from collab.io import node_files, text_lines

ENTAILED = ('entailment', 'not_entailment')
MALFORMED = ('fatal', 'skip')
UNDECIDED = '-'  # the label of a pair without agreement of its annotators
PAIR = ('sentence1', 'sentence2')
TSV = ('train.tsv', 'dev.tsv')


class Table(NamedTuple):
  """The columns and files of a task.

  Attributes:
    folder: folder of its files.
    texts: columns of one or two texts.
    label: column of the label.
    labels: values of the label in the order of their ids; () for a number.
    features: names of the texts in TFDS, if they differ from the files'.
    files: alternatives (train, dev, perhaps more dev); the first that exists is
      used.
    header: columns of files without a header line, else ().
  """

  folder: str
  texts: tuple[str, ...] = PAIR
  label: str = 'label'
  labels: tuple[str, ...] = ('0', '1')
  features: tuple[str, ...] = ()
  files: tuple[tuple[str, ...], ...] = (TSV,)
  header: tuple[str, ...] = ()


TABLES = dict(
  cola=Table(
    'CoLA', ('sentence',), header=('source', 'label', 'star', 'sentence')
  ),
  sst2=Table('SST-2', ('sentence',)),
  # GLUE split the original training set into train.tsv and dev.tsv by a list
  # of ids. Without these files, the dev set is the original test set of 1,725
  # pairs.
  mrpc=Table(
    'MRPC',
    ('#1 String', '#2 String'),
    'Quality',
    features=PAIR,
    files=(TSV, ('msr_paraphrase_train.txt', 'msr_paraphrase_test.txt')),
  ),
  qqp=Table('QQP', ('question1', 'question2'), 'is_duplicate'),
  stsb=Table('STS-B', label='score', labels=()),
  mnli=Table(
    'MNLI',
    label='gold_label',
    labels=('entailment', 'neutral', 'contradiction'),
    features=('premise', 'hypothesis'),
    files=(('train.tsv', 'dev_matched.tsv', 'dev_mismatched.tsv'),),
  ),
  qnli=Table('QNLI', ('question', 'sentence'), labels=ENTAILED),
  rte=Table('RTE', labels=ENTAILED),
  wnli=Table('WNLI'),
)


def local(name: str, path: str | Path, malformed: str = 'fatal') -> Parts:
  """Reads a task's parts from a folder of GLUE's folders.

  Args:
    name: a key of TABLES.
    path: the folder that has CoLA, SST-2, ...
    malformed: 'fatal', or 'skip' to leave out and count rows with a wrong
      number of columns (QQP is published with a few) or the label UNDECIDED.

  Raises:
    ValueError: there is no such folder or file, or `malformed` is neither.
      While iterating: a damaged file, no header, a row with a wrong number of
      columns, an unknown label, or no row at all.
  """
  checks.one_of('data.malformed', malformed, MALFORMED)
  table, skipped = TABLES[name], {}
  files = _find(node_files.fetched(path) / table.folder, table.files)
  parts = _evaluated(table)
  readers = {
    part: functools.partial(_read, file, table, malformed == 'skip', skipped)
    for part, file in zip(('train', *parts.values()), files, strict=True)
  }
  return Parts(readers, parts, parts, skipped)


def tfds(name: str, corpus: str = 'glue') -> Parts:
  """Reads the same from TFDS, e.g. 'glue/sst2'; see `prepared.builder`."""
  table = TABLES[name]
  features, parts = table.features or table.texts, _evaluated(table)
  builder = prepared.builder(f'{corpus}/{name}', (*features, 'label'))

  def read(part):
    for row in prepared.rows(builder, part.replace('dev', 'validation')):
      yield Example(tuple(row[x] for x in features), row['label'])

  readers = {x: functools.partial(read, x) for x in ('train', *parts.values())}
  return Parts(readers, parts, parts, {})


def _evaluated(table):
  """Returns {name in the metrics: part} of the dev set, or of MNLI's two."""
  if len(table.files[0]) == 2:
    return {'': 'dev'}
  return dict(m='dev_matched', mm='dev_mismatched')


def _find(folder, choices):
  """Finds the first alternative of which all files exist, plain or .gz."""
  for names in choices:
    found = [split_files.plain_or_gz(folder / name) for name in names]
    if all(found):
      return found
  wanted = '; or '.join(' and '.join(names) for names in choices)
  there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
  raise ValueError(
    f'{folder} has {", ".join(there[:12]) or "nothing"}; expected {wanted}, '
    'plain or .gz.'
  )


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
    columns, fault = line.split('\t'), ''
    if len(columns) != len(header):
      fault = f'{len(columns)} columns, expected {len(header)}'
    elif columns[label] == UNDECIDED:
      fault = f'the label is {UNDECIDED!r}, that of no class'
    if fault and skip:
      bad += 1
      continue
    with checks.located(f'{path}, line {number}'):
      if fault:
        raise ValueError(
          f"{fault} (data.malformed='skip' leaves such rows out)."
        )
      found = label_id(columns[label], table.labels)
    yield Example(tuple(columns[i] for i in texts), found)
  if bad:
    skipped[str(path)] = bad


def label_id(label: object, labels: tuple) -> float:
  """Converts a label to its id, or to a number (0 to 5) if `labels` is ().

  Raises:
    ValueError: the label and the legal ones.
  """
  if label in labels:
    return labels.index(label)
  if not labels:
    # float() also takes 0_1 and the digits of other scripts.
    plain = re.fullmatch(r'[0-9]+(\.[0-9]*)?', str(label))
    if plain and float(label) <= 5:
      return float(label)
  legal = ', '.join(map(str, labels)) or '0 to 5'
  raise ValueError(f'the label is {label!r}, expected {legal}.')
