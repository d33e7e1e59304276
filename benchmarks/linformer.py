# SPDX-License-Identifier: Apache-2.0
r"""Times MHE against Linformer over lengths, which the MHE paper leaves open.

  ./launch.sh python -m benchmarks.linformer [--save]

A case is forward and backward of the whole layer on one row without a mask, in
float32 with D=768 and H=12, in one run for all lengths. Memory is what XLA
plans for temporaries. Linformer has p keys in place of T, and 2 T p parameters.
--save also draws benchmarks/results/linformer.png.
"""

import argparse

import jax
import jax.numpy as jnp

from benchmarks import protocol
from benchmarks.attention import D, H, with_backward
from collab import attention

LAYERS = {
  'mha': dict(name='mha'),
  'mhe_mul': dict(name='mhe_mul'),
  'mhe_add': dict(name='mhe_add'),
  'linformer, p=256': dict(name='linformer', projected_length=256),
  'linformer, p=64': dict(name='linformer', projected_length=64),
}
# Of Okabe and Ito, which people who confuse colours can tell apart.
COLOURS = '#3b6fb6', '#D55E00', '#E69F00', '#009E73', '#CC79A7'


def cases(T):
  """Returns {(layer, T): (forward and backward, arguments)}."""
  x, found = jax.random.normal(jax.random.key(1), (1, T, D)), {}
  for name, fields in LAYERS.items():
    own = dict(length=T) if fields['name'] == 'linformer' else {}
    layer = attention.build(num_heads=H, **fields, **own)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 1, D)))
    found[name, T] = with_backward(layer.apply), (variables, x)
  return found


def draw(figures, lengths):
  """Writes the picture of time and memory against the length."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4), layout='constrained')
  titles = dict(ms='time, ms', temp_mib='temporary memory, MiB')
  panels = zip(figure.subplots(1, 2), titles.items(), strict=True)
  for axes, (key, title) in panels:
    for name, colour in zip(LAYERS, COLOURS, strict=True):
      found = [figures[f'{name}, T={T}'][key] for T in lengths]
      axes.plot(lengths, found, marker='o', color=colour)
      if key == 'ms':
        how = dict(textcoords='offset points', va='center', color=colour)
        axes.annotate(name, (lengths[-1], found[-1]), (8, 0), **how)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log', base=2)
    axes.set_xticks(lengths)
    axes.xaxis.set_major_formatter('{x:.0f}')
    axes.yaxis.set_major_formatter('{x:.0f}')
    axes.set(xlabel='tokens', title=title)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
  figure.suptitle('Forward and backward of a layer: D=768, 12 heads, float32')
  figure.savefig(protocol.RESULTS / 'linformer.png', dpi=130)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  lengths = [512, 1024, 2048, 4096, 8192]
  parser.add_argument('--lengths', type=int, nargs='+', default=lengths)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  every = {}
  for T in args.lengths:
    every |= cases(T)
  found = protocol.measure(every, args.rounds, 'linformer')
  figures = {f'{name}, T={T}': x for (name, T), x in found.items()}
  print(f'\n{"":20}' + ''.join(f'{f"T={T}":>22}' for T in args.lengths))
  for name in LAYERS:
    cells = [figures[f'{name}, T={T}'] for T in args.lengths]
    row = (f'{x["ms"]:9.1f} ms{x["temp_mib"]:6.0f} MiB' for x in cells)
    print(f'{name:20}' + ''.join(f'{x:>22}' for x in row))
  if args.save:
    protocol.save('linformer', figures)
    draw(figures, args.lengths)


if __name__ == '__main__':
  main()
