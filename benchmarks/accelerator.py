# SPDX-License-Identifier: Apache-2.0
r"""Measures an accelerator: rates, layers, steps, decoding, and right values.

  python -m benchmarks.accelerator [--only=layers,steps] [--out=FILE.jsonl]

Needs JAX, Flax, Optax, Orbax and NumPy only. Each case becomes a line of the
file as soon as it is measured; a failure is a line too. With the same file the
command goes on where one was stopped, by time or by hand, and repeats what
failed. On a CPU all cases are tiny, and their times mean nothing.

The sections take turns, each with its most telling cases, so that a short run
has something of all. The columns:

  share           the time as a share of MHA's, in the same rounds
  kernel          what the layer chose; of "mha, xla", what it was told
  of_matrix_rate  FLOP/s as a share of the measured matrix product's. Of a layer
                  they are the products' in its program, without the blocks that
                  a causal kernel skips; of a training step three forward passes
  mfu             the same as a share of the maker's figure
  planned_mib     what XLA plans for, with parameters; temporary_mib: without
  of_bandwidth    the time to read cache and weights at the rate of a copy
                  (bytes read and written), over the time. Small caches stay on
                  the chip, so it may be above 1
  value_error     of values and gradients against the plain formula in float64
                  on the CPU, as a share of their norm
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax

from benchmarks import accelerator_cases as cases
from benchmarks import accelerator_checks as checks
from benchmarks import protocol
from collab.attention import target

SECTIONS = dict(
  peaks=cases.peaks,
  layers=cases.layers,
  steps=cases.steps,
  decode=cases.decode,
  values=checks.values,
  checkpoint=checks.checkpoint,
  nccl=checks.nccl,
)
KEY = 'section', 'group', 'case'
# Of runs that share a file.
SAME = 'card', 'driver', 'cudnn', 'jax', 'flax', 'xla_flags'


def environment():
  """What figures depend on."""
  query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
  driver = ''
  if shutil.which(query[0]):
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    driver = done.stdout.partition('\n')[0]
  return protocol.machine() | dict(
    card=jax.devices()[0].device_kind,
    devices=jax.device_count(),
    driver=driver,
    cudnn=target.target().cudnn,
    xla_flags=os.environ.get('XLA_FLAGS', ''),
  )


class Results:
  """{(section, group, case): figures or an error}, in a file of JSON lines."""

  def __init__(self, path):
    self._path, self.rows, now = path, {}, environment()
    lines = path.read_text().splitlines() if path.exists() else []
    for row in map(json.loads, lines):
      before = row.pop('environment', now)
      if changed := [x for x in SAME if before.get(x) != now[x]]:
        words = ', '.join(f'{x}={before.get(x)!r}' for x in changed)
        sys.exit(f'{path} is of {words}: use another --out.')
      if row:
        self.rows[tuple(map(row.pop, KEY))] = row
    self._write(dict(environment=now))
    print(*(f'{k}: {v}' for k, v in now.items()), sep='\n')

  def add(self, key, figures):
    self.rows[key] = figures
    row = dict(zip(KEY, key, strict=True)) | figures
    self._write(row)
    print(*(f'{k}={shown(x)}' for k, x in row.items()), flush=True)

  def peak(self, name, figure, unit):
    """A measured rate, 0 if that failed."""
    row = self.rows.get(('peaks', 'measured rates', name), {})
    return unit * row.get(figure, 0)

  def _write(self, row):
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')


def all_cases(size, sections):
  """{(section, group, case): measure}, in turns."""
  rows = [
    (turn, (section, *key), measure)
    for section in SECTIONS
    if section in sections
    for turn, *key, measure in SECTIONS[section](size)
  ]
  rows.sort(key=lambda row: row[0])
  return {key: measure for _, key, measure in rows}


def attempt(measure, results):
  try:
    return measure(results)
  except Exception as e:  # whatever it is, it is a row
    first = str(e).strip().partition('\n')[0][:160]
    return dict(error=f'{type(e).__name__}: {first}')


def shown(x):
  """A figure with three digits."""
  if not isinstance(x, float):
    return str(x)
  return f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'


def table(rows):
  """Prints a Markdown table for each group, and below it what failed."""
  order, groups = list(SECTIONS), {}
  for key in sorted(rows, key=lambda key: order.index(key[0])):
    groups.setdefault(key[:2], {})[key[2]] = rows[key]
  for key, group in groups.items():
    print(f'\n### {": ".join(key)}\n')
    good = {name: row for name, row in group.items() if 'error' not in row}
    columns = list(dict.fromkeys(k for row in good.values() for k in row))
    lines = [['case', *columns]]
    for name, row in good.items():
      lines.append([name, *(shown(row.get(k, '')) for k in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ['-' * width for width in widths])
    for line in lines if good else ():
      cells = [f'{x:{n}}' for x, n in zip(line, widths, strict=True)]
      print('|', ' | '.join(cells), '|')
    for name in (x for x in group if x not in good):
      print(f'- {name}: {group[name]["error"]}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(SECTIONS), metavar='SECTIONS')
  parser.add_argument('--limit', type=float, default=450, help='seconds')
  parser.add_argument('--quick', action='store_true', help='few and tiny')
  parser.add_argument('--out', type=pathlib.Path, metavar='FILE')
  args = parser.parse_args()
  only = args.only.split(',')
  if unknown := set(only) - set(SECTIONS):
    parser.error(f'--only: no {", ".join(unknown)} in {", ".join(SECTIONS)}.')
  start = time.monotonic()
  size = cases.Size(tiny=args.quick or jax.default_backend() == 'cpu')
  if args.quick:
    size = size._replace(variants=('mha', 'mhe_add'))
  path = args.out or pathlib.Path(tempfile.mkdtemp(), 'accelerator.jsonl')
  results = Results(path)
  left = all_cases(size, ['peaks', *only])  # others are shares of the peaks
  done = {key for key, row in results.rows.items() if 'error' not in row}
  left = {key: measure for key, measure in left.items() if key not in done}
  while left and time.monotonic() - start < args.limit:
    key = next(iter(left))
    results.add(key, attempt(left.pop(key), results))
  table(results.rows)
  if left:
    print(f'\nNot run, as --limit={args.limit:g} seconds are used up:')
    print(*(f'  {": ".join(key)}' for key in left), sep='\n')
  print(f'\n{time.monotonic() - start:.0f} s; kept in {path}')


if __name__ == '__main__':
  main()
