# SPDX-License-Identifier: Apache-2.0
"""The workdir that a conversion leaves: a run that has not begun, reported."""

import contextlib
import os
import pathlib
import shlex
import time

import jax
import jax.numpy as jnp
import matplotlib
from ml_collections import ConfigDict

matplotlib.use('Agg')

import matplotlib.pyplot as plt

from collab import model_json
from collab.convert import source as sources
from collab.convert.huggingface import checkpoints as huggingface
from collab.io import atomic
from collab.runtime import checkpoint, provenance
from collab.training import optim


def check(folder):
  """Refuses a folder that is there, with a ValueError."""
  if os.path.lexists(folder):
    raise ValueError(f'{folder} exists; give a new folder.')


def export(folder, source):
  """Writes a checkpoint of Transformers.

  Raises:
    ValueError: the model did not come from one; or as `huggingface.save`.
  """
  if source.pretrained is None:
    raise ValueError(
      f'{source.folder} did not come from a checkpoint of Transformers, so '
      'there is no config.json to write it with.'
    )
  config = huggingface.labelled(source.pretrained.config, source.meaning)
  huggingface.save(
    folder,
    source.pretrained._replace(
      model=source.model, params=source.params, config=config
    ),
  )
  print(f'In {folder}: config.json, model.safetensors')


def write(folder, source, new, fields, args, words):
  """Writes a workdir, all of it or nothing, and prints what is in it.

  Args:
    folder: that does not exist.
    source: source.Source.
    new: reparametrize.Converted.
    fields: of the new attention, as asked for.
    args: arguments of the command, a namespace.
    words: the same as they were typed.

  Raises:
    OSError: it cannot be written.
  """
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with atomic.beside(folder) as temporary:
    temporary.mkdir()
    facts = _facts(source, new, fields, args, words)
    _run(temporary, source, new, facts)
    _report(temporary, new, facts)
    temporary.rename(folder)
  print(table(facts))
  print(f'In {folder}: {", ".join(sorted(p.name for p in folder.iterdir()))}')


def _facts(source, new, fields, args, words):
  """conversion.json: all that there is to say."""
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  return dict(
    source=source.folder,
    family=source.pretrained.family if source.pretrained else '',
    command=shlex.join(['python', '-m', 'collab.convert', *words]),
    date=time.strftime('%Y-%m-%d'),
    versions=provenance.versions(),
    attention=fields,
    calibration=args.calibration,
    rows=args.rows if args.calibration else 0,
    refine=args.refine,
    seed=args.seed,
    parameters_before=size(source.params),
    parameters=size(new.params),
    layers=new.rows,
    curves=[c._asdict() for c in new.curves or []],
  )


def _run(folder, source, new, facts):
  """run.json, model.json, tokenizer.json, a checkpoint of step 0."""
  config = ConfigDict(source.config.to_dict())
  places = sources.attention_places(new.model)
  for place, fields in places.items():
    config.model[place] = fields
  config.init_from = ''
  run = dict(command=facts['command'], versions=facts['versions'])
  atomic.save_json(folder / 'run.json', run | dict(config=config.to_dict()))
  model_json.write(folder, new.model, source.meaning)
  if source.tokenizer:
    atomic.write_text(folder / 'tokenizer.json', source.tokenizer)
  if source.pretrained:
    sources.write_origin(folder, source.pretrained)
  params = jax.tree.map(jnp.asarray, new.params)
  state = dict(step=jnp.int32(0), params=params)
  if config.total_steps:  # so that train.py --workdir goes on
    tx, _ = optim.build(total_steps=config.total_steps, **config.optim)
    state['opt'] = tx.init(params)
  if config.optim.ema:
    state['ema'] = params
  with contextlib.closing(checkpoint.Checkpoints(folder, 1)) as checkpoints:
    checkpoints.save(0, state)


def _report(folder, new, facts):
  """conversion.json, README.md and, if anything was converted, errors.png."""
  atomic.save_json(folder / 'conversion.json', facts)
  atomic.write_text(folder / 'README.md', card(facts))
  if new.rows:
    figure(new, folder / 'errors.png')


def card(facts):
  """The model card: where it comes from, and what was lost."""
  seen = f'{facts["rows"]} texts of {facts["calibration"]}'
  versions = facts['versions'].items()
  lines = [
    f'# {pathlib.Path(facts["source"]).name or "model"} with '
    f'{facts["attention"]["name"]}',
    '',
    f'Made from {facts["source"]} on {facts["date"]} by',
    '',
    f'    {facts["command"]}',
    '',
    f'Looked at: {seen if facts["calibration"] else "weights alone"}; '
    f'refined for {facts["refine"]} steps; seed {facts["seed"]}.',
    f'Versions: {", ".join(f"{k} {v}" for k, v in versions)}.',
    '',
    'Start others with it: `train.py --config=... --config.init_from=` this '
    'folder.',
    '',
    table(facts),
  ]
  return '\n'.join(lines) + '\n'


def table(facts):
  """Layers and sums as a Markdown table."""
  rows = facts['layers']
  whole = f'{facts["parameters"]:,} of {facts["parameters_before"]:,}'
  if not rows:
    return f'Parameters: {whole}.'
  own = [k for k in rows[0] if k in facts['attention'] or k == 'shared_dim']
  own = [k for k in own if k not in ('layer', 'error')]
  lines = [['layer', *own, 'error of the output', 'parameters', 'cache, bytes']]
  lines.append(['---'] * len(lines[0]))
  for row in rows:
    lines.append(
      [
        row['layer'],
        *(str(row[k]) for k in own),
        f'{row["error"]:.4f}',
        f'{row["parameters"]:,} of {row["parameters_before"]:,}',
        f'{4 * row["cache"]:,} of {4 * row["cache_before"]:,}',
      ]
    )
  total = {
    k: sum(r[k] for r in rows)
    for k in ('parameters', 'parameters_before', 'cache', 'cache_before')
  }
  lines.append(
    [
      'all',
      *([''] * len(own)),
      '',
      f'{total["parameters"]:,} of {total["parameters_before"]:,}',
      f'{4 * total["cache"]:,} of {4 * total["cache_before"]:,}',
    ]
  )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    '| '
    + ' | '.join(x.ljust(w) for x, w in zip(line, widths, strict=True))
    + ' |'
    for line in lines
  ]
  return '\n'.join([*text, '', f'Parameters of the model: {whole}.'])


def figure(new, path):
  """Error of the scores against key width, or of the outputs by layer."""
  figure, axis = plt.subplots(figsize=(7, 4.2), layout='constrained')
  names = [row['layer'] for row in new.rows]
  colours = plt.get_cmap('viridis')([i / len(names) for i in range(len(names))])
  if new.curves:
    for name, row, curve, colour in zip(
      names, new.rows, new.curves, colours, strict=True
    ):
      axis.plot(curve.widths, curve.errors, color=colour, label=name, lw=1.2)
      at = curve.widths.index(row['shared_dim'])
      axis.plot(row['shared_dim'], curve.errors[at], 'o', color=colour)
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
  plt.close(figure)
