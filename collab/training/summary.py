# SPDX-License-Identifier: Apache-2.0
"""Prints and writes the summaries at the start and at the end of a run."""

import itertools
import json
import math
import pathlib
import re
import time
from typing import Any

from clu import parameter_overview
import jax
from ml_collections import ConfigDict

from collab import accounting, checks, model_json
from collab.io import atomic, buckets, json_text
from collab.runtime import changes, identity, provenance, tree_table
from collab.runtime import workdir as workdirs
from collab.training import logs, sharding, speed
from collab.training.experiment import Experiment


def start(made: Experiment, state: dict, step: int) -> None:
  """Prints devices, sizes, the attention's cost beside MHA's, and the data.

  Where devices split the state, it also prints the table by which they do.
  It writes model.json and parameters.txt.
  """
  config, workdir, task, model = made[:4]
  params = state['params']
  tokens = accounting.tokens(model, config.data)
  mha = accounting.attention_cost(accounting.with_mha(model), tokens)
  cost = accounting.attention_cost(model, tokens)
  kind, shape = jax.devices()[0].device_kind, dict(made.mesh.shape)
  logs.summary(
    f'{config.task.name} with {config.model.attention.name}, '
    f'seed {config.seed}',
    {
      'devices': f'{made.mesh.devices.size} x {kind}, {shape}',
      'parameters': f'{accounting.size(params):,}',
      **{f'  {k}': f'{accounting.size(v):,}' for k, v in params.items()},
      **_attention(cost, mha, tokens),
      'steps': f'{step:,} of {config.total_steps:,} done',
      'workdir': workdir,
    },
  )
  if table := _split(made, state):
    logs.summary('split over devices', table)
  if jax.process_index() > 0:
    return
  data = task.describe().items()
  logs.summary(
    'data',
    {k: f'{v:,}' if isinstance(v, int) else _short(v) for k, v in data},
  )
  fields = config.model.to_dict() | task.model_kwargs
  model_json.write(workdir, fields, task.meaning)
  table = parameter_overview.get_parameter_overview(params, include_stats=False)
  atomic.write_text(buckets.at(workdir) / 'parameters.txt', table + '\n')


def _split(made, state):
  """Lists for each parameter its axes, what splits them, and bytes a device."""
  params = state['params']
  rules = sharding.rules(made.mesh, made.model, params, made.config.rules)
  if rules is None:
    return {}
  lines = {}
  for name, x in tree_table.named(params).items():
    parts = itertools.zip_longest(rules.axes[name], x.sharding.spec)
    found = ' '.join(f'{axis}/{by}' if by else axis for axis, by in parts)
    key = re.sub(r'layer_\d+', 'layer_*', name), found
    lines.setdefault(key, []).append(x)
  told = {}
  for (name, found), leaves in lines.items():
    line = f'{found}, {_held(leaves)}'
    told[name] = f'{told[name]}; {line}' if name in told else line
  return told | {'the whole state': _held(state)}


def _held(tree):
  """Says how much of a tree a device has: '1.2 of 9.6 MB a device'."""
  leaves = jax.tree.leaves(tree)
  size = lambda x, shape: math.prod(shape) * x.dtype.itemsize
  here = sum(size(x, x.sharding.shard_shape(x.shape)) for x in leaves)
  whole = sum(size(x, x.shape) for x in leaves)
  return f'{accounting.si(here)}B of {accounting.si(whole)}B a device'


def _attention(cost, mha, tokens):
  """Formats the cost of attention beside multi-head attention, as lines."""

  titles = dict(
    forward=(f'  of {tokens:,} tokens', 'FLOP forward'),
    training=('  training', 'FLOP'),
    activations=('  kept for it', 'B'),
    prefill=('  prefill', 'FLOP'),
    decode=('  one token more', 'FLOP'),
    cache=('  cache', 'B'),
  )
  share = cost.parameters / mha.parameters
  lines = {'in attention': f'{cost.parameters:,}, {share:.2f} of mha'}
  for name, (title, unit) in titles.items():
    if value := getattr(cost, name):  # 0 if the model does not decode
      share = f'{value / getattr(mha, name):.2f} of mha'
      lines[title] = f'{accounting.si(value)}{unit}, {share}'
  return lines


def end(
  made: Experiment,
  params: Any,
  step: int,
  scores: dict,
  examples: dict,
  **how: int,
) -> None:
  """Writes result.json, with `how`, and examples.json; prints the scores."""
  if jax.process_index() > 0:
    return
  config, folder = made.config, buckets.at(made.workdir)
  rows = logs.read_rows(folder / 'metrics.jsonl')
  seconds = sum(row.get('time/seconds', 0) for row in rows)
  kept = workdirs.read(folder)
  result = dict(
    command=kept['command'],
    date=time.strftime('%Y-%m-%d'),
    # An evaluation may differ in `every` or fsdp; the result is the run's.
    config_hash=identity.config_hash(ConfigDict(kept['config'])),
    task=config.task.name,
    variant=config.model.attention.name,
    seed=config.seed,
    steps=step,
    seconds=round(seconds, 1),
    parameters=accounting.size(params),
    attention_parameters=accounting.attention_parameters(made.model),
    versions=provenance.versions(),
    metrics=scores,
    **how,
  )
  if changed := changes.off_tables(kept['changes']):
    result['changes'] = changed
  atomic.write_text(
    folder / 'examples.json', json_text.to_json(examples) + '\n'
  )
  atomic.save_json(folder / 'result.json', result)
  if used := speed.used(rows):
    logs.summary('training', used)
  logs.summary(
    f'test, after {step:,} steps and {seconds:,.0f} s of training',
    {k: _short(v) for k, v in scores.items()},
  )
  print(
    f'In {folder}: result.json, examples.json, metrics.jsonl, tensorboard/, '
    'checkpoints/'
  )


def check_results(path: str, workdir: str) -> None:
  """Refuses, before a run, a file to which its result cannot be appended."""
  if jax.process_index() > 0:
    return
  inside = (
    pathlib.Path(path).resolve().is_relative_to(pathlib.Path(workdir).resolve())
  )
  if inside or not path.endswith('.jsonl'):
    raise ValueError(
      f'--results={path}: expected a .jsonl file outside of {workdir}.'
    )
  with checks.located(f'--results={path}: expected a .jsonl file', OSError):
    if not buckets.is_url(path):
      pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    buckets.append(path, '')


def append(workdir: str, path: str) -> None:
  """Appends the result.json of a finished run to a .jsonl file as one line.

  Raises:
    ValueError: the run is not finished.
  """
  if jax.process_index() > 0:
    return
  result = json_text.read_object(buckets.at(workdir) / 'result.json', steps=int)
  total = workdirs.read(workdir)['config']['total_steps']
  if result['steps'] < total:
    raise ValueError(
      f'--results={path}: {workdir} is at step {result["steps"]:,} of '
      f'{total:,}, expected a finished run; nothing is appended.'
    )
  buckets.append(path, json.dumps(result) + '\n')


def _short(value):
  return f'{value:.4g}' if isinstance(value, float) else value
