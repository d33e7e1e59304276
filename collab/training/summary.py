# SPDX-License-Identifier: Apache-2.0
"""What a user reads at the start and at the end of a run."""

import json
import pathlib
import time

from clu import parameter_overview
import jax

from collab import accounting, model_json
from collab.io import atomic, json_text
from collab.runtime import changes, identity, provenance
from collab.runtime import workdir as workdirs
from collab.training import logs


def start(config, workdir, task, model, params, mesh, step):
  """Prints devices, sizes, the cost of attention beside MHA's, and the data.

  Writes model.json and parameters.txt.
  """
  tokens = accounting.tokens(model, config.data)
  mha = accounting.attention_cost(accounting.with_mha(model), tokens)
  cost = accounting.attention_cost(model, tokens)
  kind, shape = jax.devices()[0].device_kind, dict(mesh.shape)
  logs.summary(
    f'{config.task.name} with {config.model.attention.name}, '
    f'seed {config.seed}',
    {
      'devices': f'{mesh.devices.size} x {kind}, {shape}',
      'parameters': f'{accounting.size(params):,}',
      **{f'  {k}': f'{accounting.size(v):,}' for k, v in params.items()},
      **_attention(cost, mha, tokens),
      'steps': f'{step:,} of {config.total_steps:,} done',
      'workdir': workdir,
    },
  )
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
  atomic.write_text(pathlib.Path(workdir) / 'parameters.txt', table + '\n')


def _attention(cost, mha, tokens):
  """Lines on what attention costs beside multi-head attention."""

  def line(name, unit):
    value, of = getattr(cost, name), getattr(mha, name)
    return f'{accounting.si(value)}{unit}, {value / of:.2f} of mha'

  lines = {
    'in attention': f'{cost.parameters:,}, '
    f'{cost.parameters / mha.parameters:.2f} of mha',
    f'  of {tokens:,} tokens': line('forward', 'FLOP forward'),
    '  training': line('training', 'FLOP'),
    '  kept for it': line('activations', 'B'),
  }
  if cost.cache:  # of a model that decodes
    lines |= {
      '  prefill': line('prefill', 'FLOP'),
      '  one token more': line('decode', 'FLOP'),
      '  cache': line('cache', 'B'),
    }
  return lines


def end(config, workdir, model, params, step, scores, examples):
  """Writes result.json and examples.json; prints the scores and where it is."""
  if jax.process_index() > 0:
    return
  rows = logs.read_rows(pathlib.Path(workdir) / 'metrics.jsonl')
  seconds = sum(row.get('time/seconds', 0) for row in rows)
  kept = workdirs.read(workdir)
  result = dict(
    command=kept['command'],
    date=time.strftime('%Y-%m-%d'),
    config_hash=identity.config_hash(config),
    task=config.task.name,
    variant=config.model.attention.name,
    seed=config.seed,
    steps=step,
    seconds=round(seconds, 1),
    parameters=accounting.size(params),
    attention_parameters=accounting.attention_parameters(model),
    versions=provenance.versions(),
    metrics=scores,
  )
  if changed := changes.off_tables(kept['changes']):
    result['changes'] = changed
  folder = pathlib.Path(workdir)
  atomic.write_text(
    folder / 'examples.json', json_text.to_json(examples) + '\n'
  )
  atomic.save_json(folder / 'result.json', result)
  logs.summary(
    f'test, after {step:,} steps and {seconds:,.0f} s of training',
    {k: _short(v) for k, v in scores.items()},
  )
  print(
    f'In {workdir}: result.json, examples.json, metrics.jsonl, tensorboard/, '
    'checkpoints/'
  )


def append(workdir, path):
  """Appends the result.json of a finished run to a .jsonl file as one line.

  Raises:
    ValueError: the run has steps to go.
  """
  if jax.process_index() > 0:
    return
  path, folder = pathlib.Path(path), pathlib.Path(workdir)
  result = json_text.read_object(folder / 'result.json', steps=int)
  total = workdirs.read(workdir)['config']['total_steps']
  if result['steps'] < total:
    raise ValueError(
      f'--results={path}: {workdir} is at step {result["steps"]:,} of '
      f'{total:,}, expected a finished run; nothing is appended.'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    file.write(json.dumps(result) + '\n')


def _short(value):
  return f'{value:.4g}' if isinstance(value, float) else value
