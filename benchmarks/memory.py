# SPDX-License-Identifier: Apache-2.0
r"""Measures the temporary memory of training a layer against sequence length.

  ./launch.sh python -m benchmarks.memory [--causal] [--save]

A case is forward and backward of the whole layer on one row, in float32 with
D=768 and H=12. The figures are what XLA plans for temporaries. `of T` is the
growth from the first to the last length as a share of linear growth: 1.00 is
linear, and linen's T x T weights tend to the ratio of the lengths.
"""

import argparse

import jax
import jax.numpy as jnp
from tqdm import tqdm

from benchmarks import protocol
from benchmarks.attention import D, layers, with_backward


def temporaries(T, causal):
  """Returns {layer name: MiB of temporary memory}."""
  x = jax.ShapeDtypeStruct((1, T, D), jnp.float32)
  found = {}
  for name, (function, arguments) in layers(x, causal).items():
    run = jax.jit(with_backward(function)).lower(*arguments).compile()
    found[name] = run.memory_analysis().temp_size_in_bytes / 2**20
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=[1024, 2048, 4096]
  )
  parser.add_argument('--causal', action='store_true')
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  found = {
    T: temporaries(T, args.causal)
    for T in tqdm(args.lengths, 'compiling', leave=False, disable=None)
  }
  print(f'\n{"":20}' + ''.join(f'{f"T={T}":>12}' for T in found) + '    of T')
  first, last = args.lengths[0], args.lengths[-1]
  for name in found[first]:
    sizes = ''.join(f'{found[T][name]:8.1f} MiB' for T in found)
    growth = found[last][name] / found[first][name] * first / last
    print(f'{name:20}{sizes}{growth:8.2f}')
  if args.save:
    protocol.save('memory_causal' if args.causal else 'memory', found)


if __name__ == '__main__':
  main()
