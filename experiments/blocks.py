# SPDX-License-Identifier: Apache-2.0
"""Makes tables with a block of rows for each task, tested against its first."""

from typing import NamedTuple

from experiments import metric, table
from experiments.table import Table


class Block(NamedTuple):
  """The arms of one task in a table.

  Attributes:
    title: name of the task.
    studies: names of the studies that the arms belong to.
    metric: metric that compares the arms.
    labels: {arm: its name}; the others are tested against the first.
  """

  title: str
  studies: list
  metric: metric.Metric
  labels: dict


def compare(title: str, text: str, blocks: list[Block]) -> Table:
  """Makes a Table of Blocks; notes on how to read it follow its text.

  A block that has not run is a single row, and not in the picture.
  """
  measured = [
    table.measure(x.studies, x.metric, x.labels, next(iter(x.labels.values())))
    for x in blocks
  ]
  rows = [
    {'task': block.title, 'score': block.metric.title, 'model': label}
    | table.cells(found.get(label), block.metric)
    for block, found in zip(blocks, measured, strict=True)
    for label in (block.labels.values() if found else [''])
  ]
  run = [x for x in zip(blocks, measured, strict=True) if x[1]]

  def draw(figure):
    columns = min(2, len(run)) or 1
    rows = -(-len(run) // columns)
    figure.set_figheight(1 + 2.5 * rows)
    if not run:
      figure.text(0.5, 0.5, table.NOT_RUN, ha='center')
    for place, (block, found) in enumerate(run):
      # Intervals of differences are narrower than those of the scores.
      axis = figure.add_subplot(rows, columns, place + 1)
      first, *_ = labels = [*block.labels.values()]
      table.bars(axis, labels, table.differences(found))
      axis.axvline(0, color='#888888', lw=1)
      words = f'{block.metric.title}, difference to {first}'
      axis.set(title=block.title, xlabel=words)

  notes = table.notes(measured, 'the first line of a task')
  return Table(title, f'{text}\n{notes}', rows, draw)
