# SPDX-License-Identifier: Apache-2.0
"""Makes the page of one run."""

import sys

from flax import linen as nn

from collab import accounting, checks, model_json, models
from collab.convert import source
from collab.runtime import workdir as workdirs
from experiments import results
from experiments.report import charts, gallery, maps, runs
from experiments.report.page import parts, whole

# {field of accounting.layer.Cost: (name, unit)}.
COSTS = dict(
  parameters=('parameters', ''),
  forward=('forward', 'FLOP'),
  training=('training', 'FLOP'),
  activations=('activations', 'B'),
  prefill=('prefill', 'FLOP'),
  decode=('one token more', 'FLOP'),
  cache=('cache', 'B'),
)
ABOUT = 'Activations are kept for the backward pass.'
PARTS = 'train', 'val', ''  # groups of metrics; others are in neither
LAYERS = {'num_layers', 'encoder_layers', 'decoder_layers'}
MOST_LAYERS = 10_000  # each is counted; more layers mean a damaged file
CONVERTED_TOKENS = 128  # converted models have no row length


def write(run: runs.Run, text: str = '', data: str = '') -> str:
  """Makes the page of a runs.Run, as HTML.

  Args:
    run: runs.Run.
    text: see maps.example.
    data: see source.Source.
  """
  return whole.render(
    title=f'{run.task} with {run.variant}, seed {run.config["seed"]}',
    outcome=run.outcome,
    done=bool(run.result),
    facts=run.facts,
    sections={
      'Results': scores(run),
      'Cost': cost(run),
      'Learning curves': curves(run),
      **attention(run, text, data),
      'Config': config(run),
    },
    wide=True,
  )


def scores(run: runs.Run) -> str:
  """Tabulates the test metrics, else those of validation so far."""
  found, when = run.result.get('metrics'), 'Test, at the end'
  if found is None:
    when = 'Validation, the last so far'
    found = {
      name.removeprefix('val/'): value
      for row in run.rows
      for name, value in row.items()
      if name.startswith('val/')
    }
  rows = [(name, runs.number(value)) for name, value in found.items()]
  if not rows:
    return parts.paragraph('None yet.')
  return parts.table(('metric', 'value'), rows, when)


def curves(run: runs.Run) -> str:
  """Draws a chart for each metric, with training and validation in one."""
  drawn = []
  for metric, by_part in runs.curves({'': [run]}).items():
    part, *others = by_part
    title = metric if others else f'{part} {metric}'.strip()
    lines = [(x, points) for x, some in by_part.items() for _, points in some]
    drawn.append(charts.chart(title, lines, last_step([run]), PARTS))
  if not any(drawn):
    return parts.paragraph('None: metrics.jsonl has no two rows to draw.')
  return parts.charts(drawn)


def last_step(some: list[runs.Run]) -> int:
  """Returns the last step of any row of some runs, at least 1."""
  return max([1, *(row['step'] for run in some for row in run.rows)])


def attention(run: runs.Run, text: str, data: str) -> dict[str, str]:
  """Makes the sections with maps, or one that says why there are none.

  Raises:
    ValueError: there are no maps although a text was given.
  """
  try:
    costs(run)  # refuses models that would take for ever to build
    found = source.read(run.folder, data=data)
    seen = maps.example(found, text)
    layers = maps.attend(found, seen)
  except (ValueError, TypeError, OSError) as e:
    why = f'No attention maps: {" ".join(str(e).split())}'
    if text:
      raise ValueError(why) from e
    print(f'report: {why}', file=sys.stderr)
    return {'Attention': parts.paragraph(why)}
  return {
    'Attention': gallery.show(seen, layers),
    'Heads alike': gallery.alike(layers),
  }


def costs(run: runs.Run) -> tuple:
  """Returns tokens of a sequence, a run's accounting.Cost, and that with MHA.

  Raises:
    ValueError: the run's files do not describe a model.
  """
  path = run.folder / 'model.json'
  fields, _ = model_json.read(run.folder)
  for name in LAYERS & fields.keys():
    if not 0 < results.as_float(fields[name]) <= MOST_LAYERS:
      raise ValueError(
        f'{path}: {name} is {fields[name]!r:.60}, expected 1 to '
        f'{MOST_LAYERS:,}.'
      )
  # Flax raises any kind of exception.
  with checks.located(f'{path} is of no model', Exception):
    model = models.build(**fields)
    tokens = length(run, model)
    with_mha = accounting.with_mha(model)
    both = [accounting.attention_cost(x, tokens) for x in (model, with_mha)]
  return tokens, *both


def cost(run: runs.Run) -> str:
  """Tabulates the attention layers' cost beside multi-head attention's."""
  try:
    tokens, own, mha = costs(run)
  except ValueError as e:
    return parts.paragraph(f'Not known: {" ".join(str(e).split())}')
  rows = []
  for name, (told, unit) in COSTS.items():
    value, of = getattr(own, name), getattr(mha, name)
    if of:  # without decoding there is no cache
      row = told, amount(value, unit), amount(of, unit), f'{value / of:.3f}'
      rows.append(row)
  about = f'All attention layers; a sequence of {tokens:,} tokens. {ABOUT}'
  head = '', run.variant, 'mha', 'share'
  if own == mha:
    head, rows = head[:2], [row[:2] for row in rows]
  return parts.table(head, rows, about)


def amount(x: int, unit: str) -> str:
  """Formats a cost as text, '12.3 MB'; '' for none."""
  if not x:
    return ''
  found = accounting.si(x)
  text = f'{found}{unit}' if ' ' in found else f'{found} {unit}'.strip()
  return text.replace(' ', '\N{NO-BREAK SPACE}')


def length(run: runs.Run, model: nn.Module) -> int:
  """Returns the tokens of a sequence, for accounting."""
  if not run.config['total_steps']:
    return CONVERTED_TOKENS
  return accounting.tokens(model, workdirs.claim(None, run.folder).data)


def config(run: runs.Run) -> str:
  """Makes HTML with command, versions and all fields."""
  fields = runs.flat(run.config).items()
  return parts.config(run, [(key, repr(value)) for key, value in fields])
