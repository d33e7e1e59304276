# SPDX-License-Identifier: Apache-2.0
"""Writes the tables in docs/results.md, from experiments/results.

python -m experiments.results_page
"""

import os

from collab import command
from collab.io import atomic
from experiments import metric, results, study, table
from experiments.tables import glue_reparametrised as glue

PAGE = study.ROOT.parent / 'docs' / 'results.md'
BEGIN = '<!-- made by python -m experiments.results_page -->'
END = '<!-- as far as here -->'
TASKS = {  # {study: title}
  'translation': ('Multi30k, BLEU', metric.BLEU),
  'vision': ('Fashion-MNIST, top-1', metric.TOP1),
}
ARMS = {  # {arm: name on the page}
  'MHA': ('mha', 'mha'),
  'MHA, keys 1/2': ('mha-96', ''),
  'MHA, keys 1/4': ('mha-48', ''),
  'collaborative, 1/2': ('collab-96', 'collab-64'),
  'collaborative, 1/4': ('collab-48', 'collab-32'),
  'SKV': ('skv', ''),
  'MQA': ('mqa', ''),
  'EL-ATT': ('el', ''),
  'SHA': ('sha', ''),
  'MHE-ADD': ('mhe_add', 'mhe_add'),
  'MHE-MUL': ('mhe_mul', 'mhe_mul'),
}


def trained() -> str:
  """Makes the table of models trained from scratch."""
  columns = {}
  for i, (name, (title, of)) in enumerate(TASKS.items()):
    arms = {x[i]: label for label, x in ARMS.items() if x[i]}
    columns[title] = of, table.measure([name], of, arms, 'MHA'), arms.values()
  (_, first, _), *_ = columns.values()
  full = first['MHA'].attention if 'MHA' in first else 0
  shares = {
    k: f'{table.ratio(x.attention, full):.2f}' for k, x in first.items()
  }
  sizes = "of MHA's parameters", shares if full else {}
  return _markdown('attention', ARMS, sizes, columns)


def converted() -> str:
  """Makes the table of a MiniLM that was converted and fine-tuned."""
  labels, sizes, columns = glue.ARMS.values(), {}, {}
  for task, of in glue.METRICS.items():
    found = glue.measure(task)
    columns[task] = of, found, labels
    sizes |= {label: f'{x.attention:,}' for label, x in found.items()}
  return _markdown('model', labels, ('in attention', sizes), columns)


def _markdown(head, labels, sizes, columns):
  """Makes a Markdown table with a row for each label.

  Args:
    head: heading of the labels.
    labels: labels of the rows.
    sizes: title of the second column, and {label: its text}.
    columns: {title: (metric, result of table.measure, labels it applies to)}.
  """
  second, texts = sizes
  rows = {
    label: {head: label, second: texts.get(label, '')} for label in labels
  }
  for title, (of, found, meant) in columns.items():
    for label, row in rows.items():
      cell = _cell(found.get(label), of) if label in meant else ''
      row[f'{title} ({_seeds(found)})'] = cell
  return table.markdown(list(rows.values()))


def dates() -> str:
  """Returns the dates of the first and of the last run of the studies."""
  found = [
    row['date']
    for name in (*TASKS, 'glue')
    for row in results.rows(study.RESULTS / f'{name}.jsonl', date=str)
    if 'arm' in row
  ]
  return ' to '.join(dict.fromkeys([min(found), max(found)]))


def section() -> str:
  """Makes the part of the page between its two comments, with these."""
  return f'{BEGIN}\n\n{trained()}\n\n{converted()}\n\n{dates()}.\n\n{END}'


def replaced(text: str) -> str:
  """Replaces the tables in the page's text by the current ones."""
  before, begin, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f'{PAGE.name} has no {BEGIN} and {END}.')
  return before + section() + after


def _cell(one, of):
  if one is None:
    return table.NOT_RUN
  x = one.interval
  sign = '*' if x.p is not None and x.p < 0.05 else ''
  ends = ' to '.join(f'{end:.{of.digits}f}' for end in (x.low, x.high))
  return f'{x.mean:.{of.digits}f}{sign} ({ends})'


def _seeds(measured):
  """Says how many seeds the arms have, for a heading."""
  numbers = sorted({x.interval.seeds for x in measured.values()})
  return f'seeds: {" or ".join(map(str, numbers)) or "none"}'


if __name__ == '__main__':
  with command.errors_in_a_line('results_page'):
    atomic.write_text(PAGE, replaced(PAGE.read_text('utf-8')))
    print(os.path.relpath(PAGE))
