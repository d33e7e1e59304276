# SPDX-License-Identifier: Apache-2.0
r"""Measures an accelerator: rates, layers, steps, decoding, and right values.

  python -m benchmarks.accelerator [--only=layers,steps] [--out=FILE]

Needs JAX, Flax, Optax, Orbax and NumPy only. Every case becomes a line of a
JSON-lines file as soon as it is measured; a failure is a line too. The same
command goes on where one was stopped, by time or by hand, and repeats what
failed. On a CPU all cases are tiny: their times mean nothing.

The sections take turns, each with its most telling group, so that a short run
has something of all:

  peaks       the rate of a bfloat16 matrix product; the bandwidth of a copy,
              bytes read and written
  layers      forward and backward of a whole layer, bfloat16, causal. share:
              of the time of MHA with cuDNN (GPU; elsewhere MHA) in the same
              rounds. of_matrix_rate: FLOPs of the products in the program,
              without the blocks that a causal kernel skips, of the measured
              rate. "mha, xla" forces a kernel, "mha" takes the layer's choice.
  steps       a training step of a decoder, Adam, bfloat16. mfu: three forward
              passes. planned_mib: what XLA plans for, with parameters. The
              layers are a scan, which compiles sooner, but for "unrolled";
              "whole logits" has a loss that makes all of them at once.
  decode      one token a row with a full cache, of a layer; 20 of them in one
              program. of_limit: the time to read cache and weights at the
              measured bandwidth, over the time. Small caches stay on the chip,
              so it may be above 1.
  values      errors of a layer's value and gradients against the plain formula
              in float64 on the CPU, as shares of the norms. "plain": of that
              formula in bfloat16, for comparison.
  checkpoint  a state written, its checksums, and read from the page cache with
              checksums compared, by what train.py uses
  nccl        an all-reduce between two processes of one GPU each
"""

import argparse
from concurrent import futures
import importlib.metadata
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax

from benchmarks import accelerator_cases, accelerator_checks, protocol
from benchmarks import accelerator_speed as speed

# Of runs that share a file.
SAME = 'card', 'driver', 'cudnn', 'jax', 'flax', 'xla_flags'
SECTIONS = dict(
  peaks=speed.peaks,
  layers=speed.layers,
  steps=speed.steps,
  decode=speed.decode,
  values=accelerator_checks.values,
  checkpoint=accelerator_checks.checkpoint,
  nccl=accelerator_checks.nccl,
)
NO_COLUMN = 'section', 'group', 'error'


def environment():
  """What figures depend on."""
  packages = importlib.metadata.distributions()
  versions = {x.metadata['Name']: x.version for x in packages}
  cudnn = [v for k, v in versions.items() if str(k).startswith('nvidia-cudnn')]
  query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
  driver = ''
  if shutil.which(query[0]):
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    driver = done.stdout.partition('\n')[0].strip()
  device = jax.devices()[0]
  return protocol.machine() | dict(
    card=device.device_kind,
    devices=jax.device_count(),
    driver=driver,
    cudnn=', '.join(cudnn),
    xla_flags=os.environ.get('XLA_FLAGS', ''),
  )


class Results:
  """The rows of a file: what earlier runs left there, and what is added.

  A row has section, group and case, and figures or an error.
  """

  def __init__(self, path, restart):
    self._path, self.rows = path, {}
    now = environment()
    lines = []
    if path.exists() and not restart:
      lines = [json.loads(x) for x in path.read_text().splitlines()]
    if lines:
      before = lines[0]['environment']
      if changed := [x for x in SAME if before.get(x) != now[x]]:
        words = ', '.join(f'{x}={before.get(x)!r}' for x in changed)
        sys.exit(f'{path} is of {words}: use another --out, or --restart.')
    else:
      path.write_text('')
    self.environment = now
    self._write(dict(environment=now))
    for row in lines:
      self._keep(row)

  def add(self, case, figures):
    row = dict(
      section=case.section, group=case.group, case=case.name, **figures
    )
    self._write(row)
    self._keep(row)

  def figures(self, *key):
    """The row of (section, group, case), {} if it has no figures."""
    row = self.rows.get(key, {})
    return {} if 'error' in row else row

  def _keep(self, row):
    if 'section' in row:
      self.rows[row['section'], row['group'], row['case']] = row

  def _write(self, row):
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')


def pending(group, results):
  """The cases of a group to run; its base comes with any other."""
  has = lambda case: results.figures(case.section, case.group, case.name)
  if all(map(has, group)):
    return []
  return [case for case in group if case.base or not has(case)]


def run(group, results, threads, out_of_time):
  """Runs cases, compiling so many at a time; returns those it has no time for.

  What is compiled together is compiled before any of it runs.
  """
  left = list(group)
  with futures.ThreadPoolExecutor(threads) as pool:
    while left and not out_of_time():
      some, left = left[:threads], left[threads:]
      prepared = list(pool.map(lambda case: attempt(case.prepare), some))
      for case, (finish, error) in zip(some, prepared, strict=True):
        if not error:
          figures, error = attempt(finish, results)
        results.add(case, dict(error=error) if error else figures)
        print(in_line(results.rows[case[:3]]), flush=True)
  return left


def attempt(function, *arguments):
  """(result, ''), or (None, error in a line)."""
  try:
    return function(*arguments), ''
  except Exception as e:  # whatever it is, it is a row
    first = str(e).strip().partition('\n')[0][:160]
    return None, f'{type(e).__name__}: {first}'


# The table --------------------------------------------------------------------


def shown(x):
  """A figure with three digits."""
  if not isinstance(x, float):
    return str(x)
  return f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'


def in_line(row):
  return ' '.join(f'{k}={shown(x)}' for k, x in row.items())


def table(rows, markdown):
  """Prints a table for each group; what failed has its error instead."""
  order = list(SECTIONS)
  rows = sorted(rows, key=lambda row: order.index(row['section']))
  key = lambda row: (row['section'], row['group'])
  for (section, group), some in itertools.groupby(rows, key):
    some = list(some)
    columns = [k for x in some for k in x if k not in NO_COLUMN]
    columns = list(dict.fromkeys(columns))
    lines = [columns]
    for row in some:
      error = [row['case'], row.get('error')]
      cells = [shown(row.get(k, '')) for k in columns]
      lines.append(error if 'error' in row else cells)
    print(f'\n{"### " * markdown}{section}: {group}\n')
    if markdown:
      lines.insert(1, ['---'] * len(columns))
      print(*(f'| {" | ".join(cells)} |' for cells in lines), sep='\n')
      continue
    first = max(len(cells[0]) for cells in lines)
    numbers = [x for x in lines if len(x) == len(columns)]
    widths = [max(map(len, column)) for column in zip(*numbers, strict=True)]
    for name, *cells in lines:
      if len(cells) == len(widths) - 1:
        pairs = zip(cells, widths[1:], strict=True)
        cells = [f'{x:>{width}}' for x, width in pairs]
      print(f'{name:{first}}', *cells, sep='  ')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(SECTIONS), metavar='SECTIONS')
  parser.add_argument('--limit', type=float, default=450, help='seconds')
  parser.add_argument('--threads', type=int, help='that compile; 1 on a GPU')
  parser.add_argument('--tiny', action='store_true', help='as on a CPU')
  parser.add_argument('--quick', action='store_true', help='tiny, and fewer')
  parser.add_argument('--restart', action='store_true', help='forget the file')
  parser.add_argument('--markdown', action='store_true')
  parser.add_argument('--out', type=pathlib.Path, metavar='FILE')
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  only = args.only.split(',')
  if unknown := set(only) - set(SECTIONS):
    parser.error(f'--only: no {", ".join(unknown)} in {", ".join(SECTIONS)}.')
  start = time.monotonic()
  out_of_time = lambda: time.monotonic() - start > args.limit
  backend = jax.default_backend()
  size = accelerator_cases.FULL
  if args.tiny or args.quick or backend == 'cpu':
    size = accelerator_cases.QUICK if args.quick else accelerator_cases.TINY
  cores = len(os.sched_getaffinity(0))
  threads = args.threads or (1 if backend == 'gpu' else cores)
  path = args.out
  if args.save:
    card = jax.devices()[0].device_kind.replace(' ', '_')
    path = protocol.RESULTS / f'accelerator_{card}.jsonl'
  if path is None:
    path = pathlib.Path(tempfile.mkdtemp()) / 'accelerator.jsonl'
  results = Results(path, args.restart)
  print(*(f'{k}: {v}' for k, v in results.environment.items()), sep='\n')
  print(f'Written to {path}', flush=True)
  # Each section's first group, then each one's second, ...; all need `peaks`.
  chosen = [SECTIONS[x](size) for x in SECTIONS if x in (*only, 'peaks')]
  turns = [x for some in itertools.zip_longest(*chosen) for x in some if x]
  turns.reverse()
  not_run = []
  while turns:  # a group that is done is dropped, with its arrays
    not_run += run(pending(turns.pop(), results), results, threads, out_of_time)
  table(results.rows.values(), args.markdown)
  if not_run:
    print(f'\nNot run, as --limit={args.limit:g} seconds are used up:')
    for case in not_run:
      print(f'  {case.section}: {case.group}: {case.name}')
  print(f'\n{time.monotonic() - start:.0f} s; kept in {path}')


if __name__ == '__main__':
  main()
