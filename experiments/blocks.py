# SPDX-License-Identifier: Apache-2.0
"""A table of blocks: arms of one task each, tested against the first."""

from typing import NamedTuple

from experiments import metric, table

COLUMNS = ['task', 'score', 'model', 'in attention', 'seeds', 'mean']
COLUMNS += table.STATISTICS


class Block(NamedTuple):
  """The arms of one task.

  Attributes:
    title: the task.
    studies: names of those that the arms are of.
    metric: that they are compared by.
    labels: {arm: what it is called}; the others are tested against the first.
  """

  title: str
  studies: list
  metric: metric.Metric
  labels: dict


def compare(title, text, blocks):
  """The Table of some Blocks; how to read it comes after the text."""
  measured = [
    table.measure(x.studies, x.metric, x.labels, next(iter(x.labels)))
    for x in blocks
  ]
  rows = []
  for block, found in zip(blocks, measured, strict=True):
    for arm, label in block.labels.items():
      one = found.get(arm)
      size = f'{one.attention:,}' if one else ''
      got = table.cells(one, block.metric)
      rows.append([block.title, block.metric.title, label, size, *got])

  def draw(figure):
    columns = min(2, len(blocks))
    rows = -(-len(blocks) // columns)
    figure.set_figheight(1 + 2.5 * rows)
    for place, block in enumerate(blocks):
      axis = figure.add_subplot(rows, columns, place + 1)
      _differences(axis, block, measured[place])

  every = {(i, arm): x for i, y in enumerate(measured) for arm, x in y.items()}
  notes = table.notes(every, 'the first line of a task')
  return table.Table(title, f'{text}\n\n{notes}', COLUMNS, rows, draw)


def _differences(axis, block, found):
  """To the first, with their intervals, which are narrower than the scores'."""
  first, *others = block.labels
  for place, arm in enumerate(others, 1):
    if arm in found and first in found:
      x = found[arm].interval
      table.point(axis, x.difference, x.span, place)
  axis.axvline(0, color='#888888', lw=1)
  table.names(axis, block.labels)
  what = f'difference to {block.labels[first]}'
  axis.set(title=block.title, xlabel=f'{block.metric.title}, {what}')
