# SPDX-License-Identifier: Apache-2.0
"""Makes the page that compares several runs, with seeds grouped.

An arm is a config and its conversion, without the seed. Arms of one task are
compared.
"""

import math
import re
import statistics

from experiments import results as numbers
from experiments.report import charts, one, runs
from experiments.report.page import parts, whole

# Facts of a conversion that the config does not have.
CONVERSION = 'source', 'calibration', 'rows', 'refine'
SHOWN = ('train', 'loss'), ('train', 'accuracy')  # and all of validation's


def write(found: list[runs.Run]) -> str:
  """Makes the page that compares several runs, as HTML."""
  tasks = {}
  for run in found:
    tasks.setdefault(run.task, []).append(run)
  done = sum(bool(run.result) for run in found)
  dates = sorted(str(r.result['date']) for r in found if 'date' in r.result)
  sections = {}
  for task, some in tasks.items():
    arms, of = of_arms(some), f' of {task}' if len(tasks) > 1 else ''
    sections |= {
      f'Results{of}': results(arms),
      f'Learning curves{of}': curves(arms),
      f'Cost{of}': cost(arms),
      f'Runs{of}': parts.runs(arms),
    }
  return whole.render(
    title=f'{len(found)} runs of {", ".join(tasks)}',
    outcome=f'{done} of {len(found)} runs are finished.',
    done=done == len(found),
    facts=' to '.join(dict.fromkeys((*dates[:1], *dates[-1:]))),
    sections={name: body for name, body in sections.items() if body},
    wide=False,
  )


def of_arms(some: list[runs.Run]) -> dict[str, list]:
  """Groups runs of one task by arm, {label: runs}, in their order.

  A label is the variant and, if a variant has several arms, the fields in which
  these differ.
  """
  arms, variants = {}, {}
  for run in some:
    fields = _but_seed(run)
    arms.setdefault(repr(sorted(fields.items())), (fields, []))[1].append(run)
    variants.setdefault(run.variant, []).append(fields)
  labelled = {}
  for fields, members in arms.values():
    variant = members[0].variant
    words = [
      f'{key.rpartition(".")[2]}={fields[key]}'
      for key in dict.fromkeys(k for x in variants[variant] for k in x)
      if key in fields
      and len({repr(x.get(key)) for x in variants[variant]}) > 1
    ]
    labelled[', '.join([variant, *words])] = members
  return labelled


def _but_seed(run):
  """Returns a config's non-empty fields, without its seed or a source's."""
  fields = runs.flat(run.config)
  fields |= {x: run.conversion[x] for x in CONVERSION if run.conversion.get(x)}
  if changes := run.result.get('changes'):  # no other run is like it
    fields['changes'] = changes
  seed = fields.pop('seed')
  for key in {'init_from', 'source'} & fields.keys():
    fields[key] = re.sub(rf'\bs{seed}\b', 's', str(fields[key]))
  return {key: value for key, value in fields.items() if value != ''}


def results(arms: dict[str, list]) -> str:
  """Tabulates means and standard deviations over the seeds of each arm."""
  scores = {
    label: [run.result['metrics'] for run in some if run.result]
    for label, some in arms.items()
  }
  every = [x for some in scores.values() for x in some]
  if not every:
    return parts.paragraph('None yet.')
  names = dict.fromkeys([*runs.HEADLINES, *(name for x in every for name in x)])
  names = [name for name in names if _tells(name, every)]
  rows = [
    (label, str(len(some)), *(_spread(name, some) for name in names))
    for label, some in scores.items()
  ]
  about = 'Test: mean ± standard deviation over seeds'
  return parts.table(('arm', 'seeds', *names), rows, about)


def _tells(name, every):
  """Returns whether a metric is a number that distinguishes or judges runs."""
  values = [numbers.as_float(scores.get(name)) for scores in every]
  # A headline metric is shown even if it is nan in all runs.
  judges = name in runs.HEADLINES and any(name in scores for scores in every)
  number = judges or any(not math.isnan(x) for x in values)
  shown = judges or len(every) == 1 or len({*values}) > 1
  return number and shown and '/' not in name


def _spread(name, some):
  if not some:
    return ''
  values = [numbers.as_float(scores.get(name)) for scores in some]
  if not all(map(math.isfinite, values)):  # a mean would hide a diverged seed
    return ', '.join(map(runs.number, values))
  mean = f'{statistics.mean(values):.4g}'
  return f'{mean} ± {statistics.stdev(values):.2g}' if len(some) > 1 else mean


def curves(arms: dict[str, list]) -> str:
  """Draws a chart for each metric: a line a run, a colour an arm."""
  every = [run for some in arms.values() for run in some]
  drawn = []
  for metric, by_part in runs.curves(arms).items():
    for part, lines in by_part.items():
      if part == 'val' or (part, metric) in SHOWN:
        last = one.last_step(every)
        drawn.append(charts.chart(f'{part} {metric}', lines, last, [*arms]))
  return parts.charts(drawn) if any(drawn) else ''


def cost(arms: dict[str, list]) -> str:
  """Tabulates the attention layers' cost, an arm a row."""
  rows, lengths = [('arm', *(told for told, _ in one.COSTS.values()))], set()
  for label, (run, *_) in arms.items():
    try:
      tokens, found, _ = one.costs(run)
    except ValueError:
      rows.append((label, 'not known', *[''] * (len(one.COSTS) - 1)))
      continue
    lengths.add(f'{tokens:,}')
    cells = [
      one.amount(getattr(found, name), unit)
      for name, (_, unit) in one.COSTS.items()
    ]
    rows.append((label, *cells))
  columns = [x for x in zip(*rows, strict=True) if any(x[1:])]
  head, *rows = zip(*columns, strict=True)
  told = ' or '.join(sorted(lengths))
  about = f'a sequence of {told} tokens. ' if told else ''
  return parts.table(head, rows, f'All attention layers; {about}{one.ABOUT}')
