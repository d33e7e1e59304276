# SPDX-License-Identifier: Apache-2.0
"""Reads the runs of workdirs for a page."""

import pathlib
from typing import NamedTuple

from flax import traverse_util

from collab.io import json_text
from collab.runtime import workdir as workdirs
from collab.training import logs
from experiments import results

# Headline metrics: a run is judged by the first that its task has.
HEADLINES = ('bleu', 'score', 'f1', 'top1', 'perplexity')
FACTS = dict(
  parameters='parameters',
  attention_parameters='in attention',
  seconds='s of training',
)
DRAWN = ('train/', 'val/')
NOT_DRAWN = ('train/skipped', 'train/weight')
SPEED = '_per_second'
NAMES = dict(lr='learning rate')
# The order of charts: these, then the others, then those of LAST.
FIRST = ('loss', 'nll', 'perplexity', 'accuracy', 'score')
LAST = ('learning rate', 'gradient norm')


class Run(NamedTuple):
  """A run, finished or not.

  Attributes:
    folder: its workdir.
    command, versions, config: as in run.json.
    rows: of metrics.jsonl.
    result: result.json, {} before the end.
    conversion: conversion.json, {} if it was not converted.
  """

  folder: pathlib.Path
  command: str
  versions: dict
  config: dict
  rows: list
  result: dict
  conversion: dict

  @property
  def name(self) -> str:
    return self.folder.resolve().name

  @property
  def task(self) -> str:
    """The task with its sub-task: 'glue rte', 'lm', ..."""
    task = self.config['task']
    words = [str(task.get('name', '')), str(task.get('subtask', ''))]
    return ' '.join(word for word in words if word)

  @property
  def variant(self) -> str:
    return str(self.config['model'].get('attention', {}).get('name', ''))

  @property
  def outcome(self) -> str:
    """Whether the run finished, and how well it did."""
    total = self.config['total_steps']
    if self.result:
      words = f'Finished {number(self.result.get("steps", total))} steps'
      scores = self.result.get('metrics', {})
      for name in [x for x in HEADLINES if x in scores][:1]:
        words += f': {name} {number(scores[name])} on the test set'
      return f'{words}.'
    if not total:
      return 'Converted from a checkpoint, not trained.'
    step = max((row['step'] for row in self.rows), default=0)
    return f'Not finished: {step:,} of {total:,} steps so far.'

  @property
  def facts(self) -> str:
    """Date, sizes and time in a line."""
    words = [self.name]
    if 'date' in self.result:
      words.append(str(self.result['date']))
    words += [
      f'{number(self.result[name])} {told}'
      for name, told in FACTS.items()
      if name in self.result
    ]
    data = self.config['data']
    if source := data.get('path') or data.get('corpus'):
      words.append(f'data {source}')
    return ' · '.join(words)


def find(paths: list) -> list[pathlib.Path]:
  """Finds workdirs by their paths, or by those of folders of workdirs.

  Raises:
    ValueError: a path is neither.
  """
  found = []
  for path in map(pathlib.Path, paths):
    if not path.is_dir():
      raise ValueError(f'There is no folder {path}.')
    for pattern in ('run.json', '*/run.json', '*/*/run.json'):
      if folders := sorted(file.parent for file in path.glob(pattern)):
        break
    else:
      raise ValueError(
        f'{path} is neither a workdir (it has no run.json) nor a folder of '
        'workdirs.'
      )
    found += folders
  return list(dict.fromkeys(found))


def read(folder: pathlib.Path) -> Run:
  """Reads a run from its workdir.

  Raises:
    ValueError: run.json, metrics.jsonl, result.json or conversion.json is
      damaged.
  """
  path = folder / 'run.json'
  kept = workdirs.read(folder)
  if 'attention' in kept['config']['model']:
    json_text.require(kept['config']['model'], path, attention=dict)
  rows = logs.read_rows(folder / 'metrics.jsonl')
  for number, row in enumerate(rows, 1):
    where = f'{folder / "metrics.jsonl"}, line {number}'
    json_text.require(row, where, step=int)
  result, path = {}, folder / 'result.json'
  if path.exists():
    result = json_text.read_object(path, metrics=dict)
  converted = folder / 'conversion.json'
  return Run(
    folder,
    str(kept.get('command', '')),
    kept['versions'],
    kept['config'],
    rows,
    result,
    json_text.read_object(converted) if converted.exists() else {},
  )


def curves(arms: dict[str, list[Run]]) -> dict:
  """Collects the curves to draw, in the order of charts.

  Constant values, like the number of words, are left out. Speed begins after
  the first row, which includes the compilation.

  Args:
    arms: {label: list of Run}.

  Returns:
    {metric: {'train', 'val' or '': [(label, points) of each run]}}.
  """
  found = {}
  for label, some in arms.items():
    for name, points in (x for run in some for x in _series(run)):
      part, metric = name.split('/', 1) if '/' in name else ('', name)
      metric = NAMES.get(metric, metric.replace('_', ' '))
      found.setdefault(metric, {}).setdefault(part, []).append((label, points))
  changing = [
    metric
    for metric, parts in found.items()
    if any(_changes(x) for part in parts.values() for _, x in part)
  ]
  order = [*FIRST, *(x for x in changing if x not in FIRST + LAST), *LAST]
  return {metric: found[metric] for metric in order if metric in changing}


def _series(run):
  """Returns (name, [(step, value)]) of what can be drawn."""
  found = {}
  for row in run.rows:
    for name, value in row.items():
      speed = SPEED in name and '/' not in name
      if speed or (name.startswith(DRAWN) and name not in NOT_DRAWN):
        found.setdefault(name, []).append(
          (row['step'], results.as_float(value))
        )
  return [(k, x[1:] if SPEED in k else x) for k, x in found.items()]


def _changes(points):
  return len({y for _, y in points}) > 1


def number(x: object) -> str:
  """Formats a value of any kind as text."""
  if isinstance(x, list):
    return ', '.join(map(number, x))
  if isinstance(x, bool) or not isinstance(x, int | float):
    return str(x)
  if isinstance(x, int):
    return f'{x:,}'
  return f'{x:,.0f}' if 1e4 <= abs(x) < 1e9 else f'{x:.4g}'


def flat(config: dict) -> dict:
  """Flattens nested dicts to {'model.dim': 512, ...}."""
  return traverse_util.flatten_dict(config, sep='.')
