# SPDX-License-Identifier: Apache-2.0
"""Makes tables of scores with intervals: Markdown, CSV and a figure.

The modules in experiments/tables and experiments/questions define the tables.
Everything is computed from the rows and examples in experiments/results, so a
table is the same whenever it is made.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import hashlib
import io
import math
import pathlib
from typing import Any, NamedTuple

from cycler import cycler
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from collab.accounting import family
from collab.io import atomic
from experiments import intervals, results, study
from experiments.metric import Metric

NOT_RUN = 'not run'
MEASURED = dict(metrics=dict, parameters=int, attention_parameters=int)
MEASURED |= dict(steps=int)
STATISTICS = 'std', '95 % from', 'to', 'difference', '95 % of it', 'p'


class Table(NamedTuple):
  """A table with its figure and text.

  Attributes:
    title: title of the Markdown.
    text: the docstring of its module: a line on what it is, and the paragraphs
      before the table.
    rows: dicts {column: text}.
    draw: function of a Figure.
  """

  title: str
  text: str
  rows: list
  draw: Callable


class Measured(NamedTuple):
  """The results of an arm.

  Attributes:
    interval: intervals.Interval.
    attention: number of parameters of its attention.
    steps: steps of training.
    examples: whether the interval is over examples too.
  """

  interval: intervals.Interval
  attention: int
  steps: int
  examples: bool


def measure(
  studies: Iterable[str],
  metric: Metric,
  arms: Mapping[str, str],
  baseline: str = 'mha',
) -> dict[str, Measured]:
  """Measures the arms that have rows: {name: Measured}.

  If the examples of one run are missing, all intervals are over seeds alone.

  Args:
    studies: names of the studies that the arms belong to.
    metric: metric.Metric.
    arms: {arm in the rows: its name here}.
    baseline: name of the arm that the others are tested against.
  """
  folder = study.RESULTS
  rows = [
    row
    for name in studies
    for row in results.rows(folder / f'{name}.jsonl', **MEASURED)
    if row.get('arm') in arms
  ]
  sums, score = [_sums(row, metric, folder) for row in rows], metric.score
  examples = not any(x is None for x in sums)
  if not examples:  # each run is its only example
    sums = [[[metric.value(row['metrics'])]] for row in rows]
    score = lambda x: x[..., 0]
  counts, seeds, sizes = {}, defaultdict(list), {}
  for row, x in zip(rows, sums, strict=True):
    name = arms[row['arm']]
    counts[row['examples']] = len(x)
    seeds[name].append(x)
    sizes[name] = row['attention_parameters'], row['steps']
  low, high = (x(counts, key=counts.get, default='') for x in (min, max))
  if low != high:
    raise ValueError(
      f'{folder / low} has {counts[low]} examples, {folder / high} '
      f'{counts[high]}: expected as many, of the same test set.'
    )
  found = intervals.compare(seeds, score, baseline, metric.test)
  return {
    name: Measured(found[name], *sizes[name], examples)
    for name in arms.values()
    if name in found
  }


def seeds(
  studies: Iterable[str], metric: Metric, prefix: str = ''
) -> dict[str, list[float]]:
  """Returns {arm: scores of its seeds} of the arms that begin with `prefix`."""
  found = defaultdict(list)
  for name in studies:
    path = study.RESULTS / f'{name}.jsonl'
    for row in results.rows(path, metrics=dict):
      if 'arm' in row and row['arm'].startswith(prefix):
        found[row['arm']].append(metric.value(row['metrics']))
  return dict(found)


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


def ratio(x: float, y: float) -> float:
  """Computes x / y; nan if y is 0, as for the score of a diverged run."""
  return x / y if y else math.nan


def cells(
  found: Measured | None, metric: Metric, mean: str = 'mean'
) -> dict[str, str]:
  """Makes the cells of a table's row on an arm, {column: text}.

  Args:
    found: Measured, or None if the arm was not run.
    metric: metric.Metric.
    mean: name of the column with the score.
  """
  if found is None:
    columns = 'in attention', 'seeds', mean, *STATISTICS
    return dict.fromkeys(columns, '') | {mean: NOT_RUN}
  x, digits = found.interval, metric.digits
  number = lambda value, sign='': (
    '' if value is None else f'{value:{sign}.{digits}f}'
  )
  return {
    'in attention': f'{found.attention:,}',
    'seeds': str(x.seeds),
    mean: number(x.mean),
    'std': number(x.std),
    '95 % from': number(x.low),
    'to': number(x.high),
    'difference': number(x.difference, '+'),
    '95 % of it': ' to '.join(number(end, '+') for end in x.span or ()),
    'p': '' if x.p is None else f'{x.p:.3f}',
  }


def notes(measured: Iterable[Mapping], baseline: str = 'mha') -> str:
  """Says how to read a table of some results of `measure`."""
  every = [x for found in measured for x in found.values()]
  if not every:
    return 'No run has finished yet.'
  steps = sorted({x.steps for x in every})
  over = 'seeds and examples'
  if not all(x.examples for x in every):
    over = 'seeds alone, for some runs have no examples kept'
  return (
    f'{" or ".join(f"{n:,}" for n in steps)} steps. Intervals and p are of '
    f'{intervals.REPLICATES:,} bootstrap replicates over {over}; p is of the '
    f'difference to {baseline}; std is that of seeds. As to the seeds, of two '
    'or three, intervals are too narrow, by a factor of 0.7 or 0.8, and p too '
    'small; with one seed both are of its examples alone.'
  )


def markdown(rows: Sequence[Mapping]) -> str:
  """Makes a Markdown table of dicts {column: text}."""
  columns = list(rows[0])
  lines = columns, ['---'] * len(columns), *(row.values() for row in rows)
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def write(name: str, table: Table, folder: pathlib.Path) -> list:
  """Writes folder/name.md, .csv and .png; returns their paths."""
  folder, file = pathlib.Path(folder), io.StringIO()
  writer = csv.DictWriter(file, list(table.rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table.rows)
  text = file.getvalue()
  _, *paragraphs = (' '.join(x.split()) for x in table.text.split('\n\n'))
  head = [f'# {table.title}', *paragraphs, f'![{table.title}]({name}.png)']
  head += [f'`./launch.sh python -m experiments.tables {name}`']
  paths = [folder / f'{name}.{kind}' for kind in ('md', 'csv', 'png')]
  atomic.write_text(paths[0], '\n\n'.join([*head, markdown(table.rows)]) + '\n')
  atomic.write_text(paths[1], text)
  figure = Figure(figsize=(9, 4), layout='constrained')
  # Identifies the numbers; a PNG's bytes depend on the library that drew it.
  source = hashlib.sha256(text.encode()).hexdigest()
  with matplotlib.rc_context(
    {'axes.prop_cycle': cycler(color=[*family.COLOURS.values()])}
  ):
    table.draw(figure)
    figure.savefig(paths[2], dpi=110, metadata={'Source': source})
  return paths


def scores(found: Mapping[str, Measured]) -> dict:
  """Returns {name: (mean, low, high)} of all arms."""
  every = {name: one.interval for name, one in found.items()}
  return {k: (x.mean, x.low, x.high) for k, x in every.items()}


def differences(found: Mapping[str, Measured]) -> dict:
  """Returns {name: (difference to the baseline, low, high)} of other arms."""
  every = {name: one.interval for name, one in found.items()}
  return {k: (x.difference, *x.span) for k, x in every.items() if x.span}


def bars(axis: Axes, labels: Sequence, numbers: Mapping) -> None:
  """Draws numbers with their intervals, one row for each label.

  Args:
    axis: to draw on.
    labels: of the rows, from above.
    numbers: {label: (value, low, high)} of some of them.
  """
  places = {i: numbers[x] for i, x in enumerate(labels) if x in numbers}
  points(axis, places, 'x', color='C0', capsize=3)
  label_rows(axis, labels)


def points(axis: Axes, numbers: Mapping, along: str, **style: Any) -> None:
  """Draws the finite ones of some numbers, with their intervals.

  Args:
    axis: to draw on.
    numbers: {place on the other axis: (value, low, high)}.
    along: 'x' or 'y', the axis of the numbers.
    **style: of Matplotlib's errorbar.
  """
  finite = [(at, *x) for at, x in numbers.items() if np.isfinite(x).all()]
  if not finite:
    return
  at, value, low, high = np.transpose(finite)
  error = np.maximum(0, [value - low, high - value])  # a percentile may pass it
  x, y = (value, at) if along == 'x' else (at, value)
  axis.errorbar(x, y, fmt='o', **{f'{along}err': error}, **style)


def label_rows(axis: Axes, labels: Sequence) -> None:
  """Labels the rows of a figure, from above."""
  axis.set_yticks(range(len(labels)), labels)
  axis.set_ylim(len(labels) - 0.5, -0.5)
  tidy(axis)


def tidy(axis: Axes) -> None:
  """Removes half of the frame and draws a grid."""
  axis.spines[['top', 'right']].set_visible(False)
  axis.grid(alpha=0.3)


def label_ends(axis: Axes, curves: Mapping) -> None:
  """Writes names of curves beside their last points, where they do not overlap.

  Curves that end in one place share a label, in the colour of the last.

  Args:
    axis: with its final scales and limits.
    curves: {name: Line2D}.
  """
  place = axis.transData + axis.transAxes.inverted()
  ends = {k: place.transform(x.get_xydata()[-1])[1] for k, x in curves.items()}
  groups = []
  for name in sorted(ends, key=ends.get):
    if groups and ends[name] - ends[groups[-1][-1]] < 0.01:
      groups[-1].append(name)
    else:
      groups.append([name])
  y = -1.0
  for names in groups:
    y = max(ends[names[0]], y + 0.06)
    style = dict(color=curves[names[-1]].get_color(), va='center', fontsize=9)
    where = dict(xycoords='axes fraction', annotation_clip=False)
    axis.annotate(', '.join(names), (1.02, y), **where, **style)


def legend(axis: Axes, **options: Any) -> None:
  """Puts the legend beside the drawing."""
  axis.legend(loc='center left', bbox_to_anchor=(1, 0.5), **options)
