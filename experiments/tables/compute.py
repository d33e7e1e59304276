# SPDX-License-Identifier: Apache-2.0
"""Compute: how long the runs of each study have trained, and on what.

Hours are those of training by the clock, without preparing data, compiling and
the final evaluation; other work may have held the machine meanwhile.
"""

from experiments import results, study
from experiments import table as tables


def table() -> tables.Table:
  """Makes the table of hours by study."""
  rows, hours = [], {}
  for path in sorted(study.RESULTS.glob('*.jsonl')):
    runs = [row for row in results.rows(path) if 'arm' in row]
    if not runs:
      continue
    hours[path.stem] = sum(
      results.as_float(row.get('seconds')) / 3600 for row in runs
    )
    on = {
      (x.get('devices', ''), x.get('cpu', '')) for x in map(_versions, runs)
    }
    dates = sorted({row.get('date', '') for row in runs})
    rows.append(
      {
        'study': path.stem,
        'runs': str(len(runs)),
        'hours': f'{hours[path.stem]:.1f}',
        'on': '; '.join(', '.join(filter(None, x)) for x in sorted(on)),
        'dates': ' to '.join(dict.fromkeys([dates[0], dates[-1]])),
      }
    )
  total = f'{sum(hours.values()):.1f}'
  runs = str(sum(int(row['runs']) for row in rows))
  rows.append(dict(study='all', runs=runs, hours=total, on='', dates=''))

  def draw(figure):
    axis = figure.subplots()
    axis.barh(range(len(hours)), list(hours.values()), color='#b9c7de')
    tables.label_rows(axis, list(hours))
    axis.set(xlabel='hours of training')

  return tables.Table('Compute', __doc__, rows, draw)


def _versions(row):
  return row.get('versions', {})
