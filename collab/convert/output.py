# SPDX-License-Identifier: Apache-2.0
"""Writes a conversion's result: a workdir with a report, or a checkpoint."""

import argparse
import contextlib
import os
import pathlib
import shlex
import time

import jax
import jax.numpy as jnp
import matplotlib
from matplotlib.figure import Figure
from ml_collections import ConfigDict
import numpy as np

from collab import model_json, models
from collab.convert import source as sources
from collab.convert.huggingface import checkpoints as huggingface
from collab.convert.reparametrize import Converted
from collab.io import atomic, buckets
from collab.runtime import checkpoint, provenance
from collab.training import optim, sharding

CARD = """\
# {name} with {attention}

Made from {source} on {date} by

    {command}

Looked at: {seen}; refined for {refine} steps; seed {seed}.
Versions: {versions}.

Start others with it: `train.py --config=... --config.init_from=` this folder.

{table}
"""


def check(folder: str | pathlib.Path) -> None:
  """Raises a ValueError if the folder exists, or is in a bucket."""
  if buckets.is_url(folder):
    raise ValueError(f'{folder}: expected a new folder of this machine.')
  if os.path.lexists(folder):
    raise ValueError(f'{folder} exists; give a new folder.')


def export(folder: str | pathlib.Path, source: sources.Source) -> None:
  """Writes a checkpoint of Transformers.

  Raises:
    ValueError: the model did not come from one; or as `checkpoints.save`.
  """
  if source.pretrained is None:
    raise ValueError(
      f'{source.folder} did not come from a checkpoint of Transformers, so '
      'there is no config.json to write it with.'
    )
  config = huggingface.labelled(source.pretrained.config, source.meaning)
  new = dict(model=source.model, params=source.params, config=config)
  huggingface.save(folder, source.pretrained._replace(**new))
  _print_names(folder)


def write(
  folder: str | pathlib.Path,
  source: sources.Source,
  new: Converted,
  fields: dict,
  args: argparse.Namespace,
  words: list[str],
) -> None:
  """Writes a workdir atomically, and prints what is in it.

  The workdir is a run that has not begun, with conversion.json, README.md and,
  if anything was converted, errors.png.

  Args:
    folder: folder that does not exist yet.
    source: the model that was converted.
    new: reparametrize.Converted.
    fields: requested fields of the new attention, {} if it stays.
    args: arguments of the command, a namespace.
    words: the arguments as they were typed.

  Raises:
    OSError: the workdir cannot be written.
  """
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  facts = _facts(source, new, fields, args, words)
  with atomic.beside(folder) as temporary:
    temporary.mkdir()
    _write_run(temporary, source, new, facts)
    atomic.save_json(temporary / 'conversion.json', facts)
    atomic.write_text(temporary / 'README.md', card(facts))
    if new.rows:
      draw(new, temporary / 'errors.png')
    temporary.rename(folder)
  print(table(facts))
  _print_names(folder)


def _print_names(folder):
  names = sorted(path.name for path in pathlib.Path(folder).iterdir())
  print(f'In {folder}: {", ".join(names)}')


def _facts(source, new, fields, args, words):
  """Makes the contents of conversion.json."""
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  return dict(
    source=source.folder,
    family=source.pretrained.config['model_type'] if source.pretrained else '',
    command=shlex.join(['python', '-m', 'collab.convert', *words]),
    date=time.strftime('%Y-%m-%d'),
    versions=provenance.versions(),
    attention=fields or dict(name=new.model['attention']['name']),
    calibration=args.calibration,
    rows=args.rows if args.calibration else 0,
    refine=args.refine,
    seed=args.seed,
    parameters_before=size(source.params),
    parameters=size(new.params),
    layers=new.rows,
    curves=[c._asdict() for c in new.curves or []],
    trials=new.trials,
  )


def _write_run(folder, source, new, facts):
  """Writes run.json, model.json, tokenizer.json, and a checkpoint of step 0."""
  config = ConfigDict(source.config.to_dict())
  for field in (*models.ATTENTIONS, 'scan'):
    if field in new.model:
      config.model[field] = new.model[field]
  config.init_from = ''
  run = dict(command=facts['command'], versions=facts['versions'])
  atomic.save_json(folder / 'run.json', run | dict(config=config.to_dict()))
  model_json.write(folder, new.model, source.meaning)
  if source.tokenizer:
    atomic.write_text(folder / 'tokenizer.json', source.tokenizer)
  if source.pretrained:
    sources.write_origin(folder, source.pretrained)
  mesh = sharding.make_mesh(fsdp=jax.device_count())
  params = sharding.moved(new.params, mesh)
  state = dict(step=jnp.int32(0), params=params)
  if config.total_steps:  # so that train.py --workdir continues
    tx, _ = optim.build(total_steps=config.total_steps, **config.optim)
    state['opt'] = tx.init(params)
  if config.optim.ema:
    state['ema'] = params
  with contextlib.closing(checkpoint.Checkpoints(folder, 1)) as checkpoints:
    checkpoints.save(0, state)


def card(facts: dict) -> str:
  """Makes the model card: the origin of the model, and what was lost."""
  seen = 'weights alone'
  if facts['calibration']:
    seen = f'{facts["rows"]} texts of {facts["calibration"]}'
  return CARD.format_map(
    facts
    | dict(
      name=pathlib.Path(facts['source']).name or 'model',
      attention=facts['attention']['name'],
      seen=seen,
      versions=', '.join(f'{k} {v}' for k, v in facts['versions'].items()),
      table=table(facts),
    )
  )


def table(facts: dict) -> str:
  """Formats layers and their sum as a Markdown table."""
  rows = facts['layers']
  whole = f'{facts["parameters"]:,} of {facts["parameters_before"]:,}'
  if not rows:
    return f'Parameters: {whole}.'
  # Those of a budget, or a conversion.
  chosen = 'num_heads', 'shared_dim', 'key_features', 'value_dims'
  chosen += 'latent_dim', 'rope_dim'
  own = [k for k in rows[0] if k in facts['attention'] or k in chosen]
  columns = 'parameters', 'parameters_before', 'cache', 'cache_before'
  total = {k: sum(row[k] for row in rows) for k in columns}
  lines = [['layer', *own, 'error of the output', 'parameters', 'cache, bytes']]
  lines.append(['---'] * len(lines[0]))
  for row in (*rows, total | dict(layer='all')):
    lines.append(
      [
        row['layer'],
        *(_shown(row.get(k, '')) for k in own),
        f'{row["error"]:.4f}' if 'error' in row else '',
        f'{row["parameters"]:,} of {row["parameters_before"]:,}',
        f'{4 * row["cache"]:,} of {4 * row["cache_before"]:,}',
      ]
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [f'| {" | ".join(map(str.ljust, line, widths))} |' for line in lines]
  text += ['', f'Parameters of the model: {whole}.']
  if trials := facts['trials']:
    part = min(trials, key=lambda trial: trial['disturbance'])['keys']
    text.append(
      f'Keys got {part:.0%} of what columns of keys and values may cost, the '
      f'best of {len(trials)} trials.'
    )
  return '\n'.join(text)


def _shown(field):
  """Formats a field of a layer; of widths the sum, and the range of heads."""
  if not isinstance(field, tuple):
    return str(field)
  return f'{sum(field)} ({min(field)} to {max(field)})'


def draw(new: Converted, path: pathlib.Path) -> None:
  """Plots the error of the scores by key width, or of the outputs by layer.

  Args:
    new: reparametrize.Converted.
    path: path of the PNG.
  """
  figure = Figure((7, 4.2), layout='constrained')
  axis = figure.subplots()
  names = [row['layer'] for row in new.rows]
  places = np.arange(len(names)) / len(names)
  colours = matplotlib.colormaps['viridis'](places)
  if new.curves:
    for row, curve, colour in zip(new.rows, new.curves, colours, strict=True):
      width, label = row['shared_dim'], row['layer']
      axis.plot(curve.widths, curve.errors, color=colour, label=label, lw=1.2)
      error = np.interp(width, curve.widths, curve.errors)
      axis.plot(width, error, 'o', color=colour)
    axis.set_xlabel('key width (the dot is the one taken)')
    axis.set_ylabel('relative error of the scores')
    axis.legend(fontsize=7, ncols=1 + len(names) // 13)
  else:
    axis.barh(names, [row['error'] for row in new.rows], color=colours)
    axis.invert_yaxis()
    axis.tick_params(axis='y', labelsize=7)
    axis.set_xlabel("relative error of the layer's output")
  axis.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=130)
