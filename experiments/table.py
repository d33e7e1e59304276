# SPDX-License-Identifier: Apache-2.0
"""A table: what runs got, with intervals, as Markdown, CSV, PNG.

The modules in experiments/tables and experiments/questions say which; all of it
comes from the rows and examples in experiments/results, so that it is the same
whenever it is made.
"""

from collections import defaultdict
from collections.abc import Callable
import csv
import hashlib
import io
import math
import pathlib
from typing import NamedTuple

from matplotlib.figure import Figure
import numpy as np

from collab.io import atomic
from experiments import intervals, results, study

NOT_RUN = 'not run'
MEASURED = dict(metrics=dict, parameters=int, attention_parameters=int)
MEASURED |= dict(steps=int)
STATISTICS = 'std', '95 % from', 'to', 'difference', '95 % of it', 'p'


class Table(NamedTuple):
  """What is written.

  Attributes:
    title: of the Markdown.
    text: what is to be said before the table, paragraphs.
    columns: names.
    rows: lists of texts, as long.
    draw: function of a Figure.
  """

  title: str
  text: str
  columns: list
  rows: list
  draw: Callable


class Measured(NamedTuple):
  """What an arm got.

  Attributes:
    interval: intervals.Interval.
    parameters: of the model.
    attention: parameters of its attention.
    steps: of training.
    examples: whether the interval is over examples too.
  """

  interval: intervals.Interval
  parameters: int
  attention: int
  steps: int
  examples: bool


def measure(studies, metric, arms, baseline='mha'):
  """{arm: Measured} of the arms that have rows.

  If one run's examples are missing, all intervals are over seeds alone.

  Args:
    studies: names of those that the arms are of.
    metric: metric.Metric.
    arms: names.
    baseline: the one that the others are tested against.
  """
  rows, folder = defaultdict(list), study.RESULTS
  for name in studies:
    for row in results.rows(folder / f'{name}.jsonl', **MEASURED):
      if row.get('arm') in arms:
        rows[row['arm']].append(row)
  sums = {
    arm: [_sums(row, metric, folder) for row in found]
    for arm, found in rows.items()
  }
  every = [x for found in sums.values() for x in found]
  examples = not any(x is None for x in every)
  score = metric.score
  if not examples:  # a run is its own one example
    score = lambda x: x[..., 0]
    sums = {
      arm: [[[metric.value(row['metrics'])]] for row in found]
      for arm, found in rows.items()
    }
  elif len({len(x) for x in every}) > 1:
    told = {
      row['examples']: len(x)
      for arm, found in rows.items()
      for row, x in zip(found, sums[arm], strict=True)
    }
    low, high = min(told, key=told.get), max(told, key=told.get)
    raise ValueError(
      f'{folder / low} has {told[low]} examples, {folder / high} '
      f'{told[high]}: expected as many, of the same test set.'
    )
  found = intervals.compare(sums, score, baseline, metric.test)
  return {
    arm: Measured(
      found[arm],
      rows[arm][0]['parameters'],
      rows[arm][0]['attention_parameters'],
      rows[arm][0]['steps'],
      examples,
    )
    for arm in arms
    if arm in found
  }


def _sums(row, metric, folder):
  examples = results.examples(row, folder)
  if examples is None:
    return None
  try:
    sums = np.float64(metric.sums(examples, row['metrics']))
    metric.score(sums.sum(0)[None])
  except (LookupError, TypeError, ValueError) as e:
    raise ValueError(
      f'{folder / row["examples"]} is damaged: it has no {metric.title} '
      f'({type(e).__name__}: {e}).'
    ) from e
  return sums


def ratio(x, y):
  """x / y, nan where y is 0, as a score may be of a run that diverged."""
  return x / y if y else math.nan


def cells(found, metric):
  """Seeds, score and STATISTICS of a Measured, or None, as texts."""
  if found is None:
    return ['', NOT_RUN, *([''] * len(STATISTICS))]
  x, digits = found.interval, metric.digits
  number = lambda value, sign='': (
    '' if value is None else f'{value:{sign}.{digits}f}'
  )
  return [
    str(x.seeds),
    number(x.mean),
    number(x.std),
    number(x.low),
    number(x.high),
    number(x.difference, '+'),
    ' to '.join(number(end, '+') for end in x.span or ()),
    '' if x.p is None else f'{x.p:.3f}',
  ]


def notes(found, baseline='mha'):
  """What has to be known to read a table of Measured."""
  if not found:
    return 'No run has finished yet.'
  steps = sorted({x.steps for x in found.values()})
  over = 'seeds and examples'
  if not all(x.examples for x in found.values()):
    over = 'seeds alone, for some runs have no examples kept'
  return (
    f'{" or ".join(f"{n:,}" for n in steps)} steps. Intervals and p are of '
    f'{intervals.REPLICATES:,} bootstrap replicates over {over}; p is of the '
    f'difference to {baseline}; std is that of seeds. As to the seeds, of two '
    'or three, intervals are too narrow, by a factor of 0.7 or 0.8, and p too '
    'small; with one seed both are of its examples alone.'
  )


def write(name, table, folder):
  """Writes folder/name.md, .csv and .png; returns their paths."""
  folder = pathlib.Path(folder)
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([table.columns, *table.rows])
  rows = [table.columns, ['---'] * len(table.columns), *table.rows]
  lines = [f'| {" | ".join(row)} |' for row in rows]
  paragraphs = [' '.join(x.split()) for x in table.text.split('\n\n')]
  head = [f'# {table.title}', *paragraphs, f'![{table.title}]({name}.png)']
  head += [f'`./launch.sh python -m experiments.tables {name}`']
  paths = [folder / f'{name}.{kind}' for kind in ('md', 'csv', 'png')]
  atomic.write_text(paths[0], '\n\n'.join([*head, '\n'.join(lines)]) + '\n')
  atomic.write_text(paths[1], text.getvalue())
  figure = Figure(figsize=(9, 4), layout='constrained')
  table.draw(figure)
  # Which numbers it shows: bytes of a PNG depend on the library that drew it.
  source = hashlib.sha256(text.getvalue().encode()).hexdigest()
  figure.savefig(paths[2], dpi=110, metadata={'Source': source})
  return paths


def bars(axis, found, metric, labels):
  """Scores with intervals, an arm a row.

  Args:
    axis: to draw on.
    found: {arm: Measured} of some of them.
    metric: metric.Metric.
    labels: {arm: text} of all of them.
  """
  for place, arm in enumerate(labels):
    if arm in found:
      x = found[arm].interval
      point(axis, x.mean, (x.low, x.high), place)
  names(axis, labels)
  axis.set_xlabel(metric.title)


def point(axis, x, interval, place):
  """A number with its interval, in a row; a table says which are not finite."""
  if not np.isfinite([x, *interval]).all():
    return
  low, high = interval  # a percentile may pass the mean
  error = [[max(0, x - low)], [max(0, high - x)]]
  axis.errorbar(x, place, xerr=error, fmt='o', capsize=3, color='#3b6fb6')


def names(axis, labels):
  """Of the rows, from above."""
  axis.set_yticks(range(len(labels)), labels.values())
  axis.set_ylim(len(labels) - 0.5, -0.5)
  tidy(axis)


def tidy(axis):
  axis.spines[['top', 'right']].set_visible(False)
  axis.grid(alpha=0.3)
