# SPDX-License-Identifier: Apache-2.0
"""The README's tables of the studies, from experiments/results.

python -m experiments.readme
"""

import os
import sys

from collab.io import atomic
from experiments import metric, results, study, table
from experiments.tables import glue_reparametrised as glue

README = study.ROOT.parent / 'README.md'
BEGIN = '<!-- made by python -m experiments.readme -->'
END = '<!-- as far as here -->'
TASKS = {  # study: what is shown of it
  'translation': ('Multi30k, BLEU', metric.BLEU),
  'lm': ('WikiText-2, perplexity', metric.PERPLEXITY),
  'vision': ('Fashion-MNIST, top-1', metric.TOP1),
}
ARMS = {  # their names in the studies, '' where it has none
  'MHA': ('mha', 'mha', 'mha'),
  'MHA, keys 1/2': ('mha-96', '', ''),
  'MHA, keys 1/4': ('mha-48', '', ''),
  'collaborative, 1/2': ('collab-96', 'collab', 'collab-64'),
  'collaborative, 1/4': ('collab-48', '', 'collab-32'),
  'SKV': ('skv', '', ''),
  'MQA': ('mqa', 'mqa', ''),
  'EL-ATT': ('el', '', ''),
  'SHA': ('sha', 'sha', ''),
  'MHE-ADD': ('mhe_add', 'mhe_add', 'mhe_add'),
  'MHE-MUL': ('mhe_mul', 'mhe_mul', 'mhe_mul'),
}


def trained():
  """The table of models that are trained from nothing."""
  names = [
    {x[i]: label for label, x in ARMS.items()} for i in range(len(TASKS))
  ]
  found = [
    table.measure([name], of, arms, 'MHA')
    for (name, (_, of)), arms in zip(TASKS.items(), names, strict=True)
  ]
  full = found[0].get('MHA')
  rows = []
  for label, arms in ARMS.items():
    one, share = found[0].get(label), ''
    if one and full:
      share = f'{table.ratio(one.attention, full.attention):.2f}'
    row = {'attention': label, "of MHA's parameters": share}
    for measured, arm, (title, of) in zip(
      found, arms, TASKS.values(), strict=True
    ):
      cell = _cell(measured.get(label), of) if arm else ''
      row[f'{title} ({_seeds(measured)})'] = cell
    rows.append(row)
  return table.markdown(rows)


def converted():
  """The table of MiniLM, converted and fine-tuned."""
  found = {task: glue.measure(task) for task in glue.METRICS}
  rows = []
  for label in glue.ARMS.values():
    ones = [measured.get(label) for measured in found.values()]
    size = next((f'{x.attention:,}' for x in ones if x), '')
    titles = [f'{task} ({_seeds(x)})' for task, x in found.items()]
    cells = map(_cell, ones, glue.METRICS.values())
    row = {'model': label, 'in attention': size}
    rows.append(row | dict(zip(titles, cells, strict=True)))
  return table.markdown(rows)


def dates():
  """From when to when the runs of the studies were made."""
  found = [
    row['date']
    for name in (*TASKS, 'glue')
    for row in results.rows(study.RESULTS / f'{name}.jsonl', date=str)
    if 'arm' in row
  ]
  return ' to '.join(dict.fromkeys([min(found), max(found)]))


def section():
  return f'{BEGIN}\n\n{trained()}\n\n{converted()}\n\n{dates()}.\n\n{END}'


def replaced(text):
  """The README's text with the tables as they are now."""
  before, begin, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f'{README.name} has no {BEGIN} and {END}.')
  return before + section() + after


def _cell(one, of):
  if one is None:
    return table.NOT_RUN
  x = one.interval
  sign = '*' if x.p is not None and x.p < 0.05 else ''
  ends = ' to '.join(f'{end:.{of.digits}f}' for end in (x.low, x.high))
  return f'{x.mean:.{of.digits}f}{sign} ({ends})'


def _seeds(measured):
  """How many runs an arm has."""
  numbers = sorted({x.interval.seeds for x in measured.values()})
  return f'seeds: {" or ".join(map(str, numbers)) or "none"}'


if __name__ == '__main__':
  try:
    atomic.write_text(README, replaced(README.read_text('utf-8')))
    print(os.path.relpath(README))
  except (ValueError, OSError) as e:
    sys.exit(f'readme: {" ".join(str(e).split())}')
