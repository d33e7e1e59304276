# SPDX-License-Identifier: Apache-2.0
r"""Computes the largest decoder that 64 chips of 16 GB can train with FSDP.

  ./launch.sh python -m benchmarks.largest [--save]

A chip has one row of 2,048 tokens and an n-th of the state: parameters and
Adam's moments, in float32. Beside it are temporaries. Those of train.py's step
(scan, remat=full, float32) are measured at nine shapes, compiled for 64
simulated devices, and fitted by

  a D^2 L + b D L + c D^2 + d D + e

which are this chip's gradients, the inputs that layers keep, and one layer as a
whole, its gradient and its activations. The fit tells the largest shape that
fits. Then the step is compiled at that shape too. To start and to save takes a
second copy of a chip's parts for a moment; to evaluate, one of the parameters
and a forward pass.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

CHIPS, MEMORY, T, V, HEAD = 64, 16e9, 2048, 32_768, 128
WIDTHS, DEPTHS = (1024, 2048, 3072), (8, 16, 32)
LARGE = range(2048, 10_241, 1024)  # the widths that are searched


def parameters(D: int, L: int) -> int:
  """Counts the parameters of a Decoder with MHA."""
  layer = 12 * D * D + (4 * D + 4 * D + D) + 4 * D
  return L * layer + (V + T) * D + 2 * D


def measure(shapes: list) -> list[dict]:
  """Compiles the step at shapes (D, L), in a process with CHIPS devices."""
  devices = f'--xla_force_host_platform_device_count={CHIPS}'
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.largest', f'--at={json.dumps(shapes)}'],
    env=os.environ | dict(XLA_FLAGS=devices, JAX_PLATFORMS='cpu'),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def one(D: int, L: int) -> dict:
  """Measures one shape on the devices of this process."""
  from benchmarks import fsdp

  program, size, _ = fsdp.compiled(True, L, D, T, D // HEAD, V)
  used = program.memory_analysis()
  return dict(
    D=D,
    L=L,
    parameters=size // 4,
    state=used.argument_size_in_bytes,
    temporary=used.temp_size_in_bytes,
  )


def terms(D: int, L: int) -> list:
  return [D * D * L, D * L, D * D, D, 1]


def fit(found: list[dict]) -> np.ndarray:
  """Returns the coefficients of `terms` by least squares of relative errors."""
  y = np.array([x['temporary'] for x in found], float)
  rows = np.array([terms(x['D'], x['L']) for x in found]) / y[:, None]
  scale = np.abs(rows).max(0)
  return np.linalg.lstsq(rows / scale, np.ones(len(y)), rcond=None)[0] / scale


def largest(found: list[dict], memory: float = MEMORY) -> tuple[int, int]:
  """Returns the shape (D, L) of most parameters that fit, by the fit."""
  fitted = fit(found)
  state = max(x['state'] / x['parameters'] for x in found)  # bytes of each

  def fits(D, L):
    mine = state * parameters(D, L)
    return max(mine + terms(D, L) @ fitted, 2 * mine) <= memory

  shapes = itertools.product(LARGE, range(8, 513, 8))
  return max((x for x in shapes if fits(*x)), key=lambda x: parameters(*x))


def section(found: list[dict], last: dict) -> str:
  """Returns the section of scaling.md."""
  fitted = fit(found)
  errors = [terms(x['D'], x['L']) @ fitted / x['temporary'] - 1 for x in found]
  text = f'{CHIPS} x {MEMORY / 1e9:.0f} GB'
  lines = [
    f'## The largest model for {text}',
    '',
    '| D | layers | parameters | state, GB | temporaries, GB | by the fit |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for x in [*found, last]:
    by_fit = terms(x['D'], x['L']) @ fitted
    lines.append(
      f'| {x["D"]:,} | {x["L"]} | {x["parameters"] / 1e9:.2f} billion '
      f'| {x["state"] / 1e9:.2f} | {x["temporary"] / 1e9:.2f} '
      f'| {by_fit / 1e9:.2f} |'
    )
  total = (last['state'] + last['temporary']) / 1e9
  share = last['state'] * CHIPS / last['parameters']
  D, L = largest(found, 0.9 * MEMORY)
  lines += [
    '',
    f'A decoder of D={last["D"]:,}, {last["L"]} layers, '
    f'{last["D"] // HEAD} heads of {HEAD}, V={V:,}: '
    f'**{last["parameters"] / 1e9:.1f} billion parameters**, T={T:,}, one row '
    f'a chip, remat=full, Adam in float32, {share:.2f} bytes of state a '
    f'parameter. Its step takes {total:.2f} GB of a chip. The fit is within '
    f'{max(map(abs, errors)):.1%} of the nine shapes that it was made of. '
    f'If a tenth of the memory is left to the runtime, it is D={D:,}, {L} '
    f'layers, {parameters(D, L) / 1e9:.1f} billion.',
  ]
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.partition('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--save', action='store_true', help='to scaling.md')
  parser.add_argument('--at', type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.at:
    print(json.dumps([one(*shape) for shape in args.at]))
    return
  found = measure(list(itertools.product(WIDTHS, DEPTHS)))
  [last] = measure([largest(found)])
  text = section(found, last)
  print(text)
  if args.save:
    from benchmarks import protocol
    from collab.io import atomic

    protocol.save('largest', [*found, last])
    path = pathlib.Path(__file__).with_name('scaling.md')
    before, _, rest = path.read_text().partition('## The largest')
    _, title, after = rest.partition('## Sent by')
    atomic.write_text(path, f'{before}{text}\n{title}{after}')


if __name__ == '__main__':
  main()
