# SPDX-License-Identifier: Apache-2.0
r"""Times layers with 8 to 128 heads, and plans their memory.

  ./launch.sh python -m benchmarks.heads [--save]

A case is forward and backward of the whole layer on one row of 256 tokens, in
float32. In `width of a head` each head is 16 wide, and the model as wide as all
heads; in `width of all heads` that is 1,024, divided by more and more heads.
Memory is what XLA plans for temporaries. The slope is that of a line through
log time, or log memory, over log H: 1 is proportional to the number of heads.
That of time needs a machine that has no other work meanwhile.
`python -m experiments.tables number_of_heads` makes the page.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from benchmarks.attention import with_backward
from collab import attention

HEADS, T = (8, 32, 128), 256
WIDTHS = {
  'width of a head': lambda H: 16 * H,
  'width of all heads': lambda H: 1024,
}
# {variant: function of (H, width of all heads) -> its fields}.
FIELDS = {name: lambda H, D: {} for name in attention.names()} | dict(
  collab=lambda H, D: dict(shared_dim=D // 2),
  gqa=lambda H, D: dict(kv_heads=H // 4),
  gla=lambda H, D: dict(latent_dim=D // 4, kv_heads=2),
  gta=lambda H, D: dict(kv_heads=2),
  linformer=lambda H, D: dict(length=T, projected_length=64),
  mfa=lambda H, D: dict(query_dim=D // 3, head_width=D // H),
  mfa_kr=lambda H, D: dict(query_dim=D // 3, head_width=D // H),
  mla=lambda H, D: dict(latent_dim=D // 4),
  tpa=lambda H, D: dict(rank=2),
)
MEASURES = dict(ms='time', temp_mib='memory')


def case(name, H, D):
  """Returns (forward and backward, arguments) of a layer."""
  layer = attention.build(name, num_heads=H, **FIELDS[name](H, D))
  x = jax.random.normal(jax.random.key(1), (1, T, D))
  variables = layer.init(jax.random.key(0), jnp.zeros((1, 1, D)))
  return with_backward(layer.apply), (variables, x)


def slope(found, key):
  """Fits d log figure / d log H to {H: figures}."""
  x, y = (
    np.log([*map(float, z)]) for z in (found, (f[key] for f in found.values()))
  )
  return float(np.polyfit(x, y, 1)[0])


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--heads', type=int, nargs='+', default=HEADS)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  figures = {}
  for title, width in WIDTHS.items():
    figures[title] = {name: {} for name in FIELDS}
    for H in args.heads:
      cases = {name: case(name, H, width(H)) for name in FIELDS}
      found = protocol.measure(cases, args.rounds, f'{title}, {H} heads')
      for name, x in found.items():
        figures[title][name][str(H)] = x
    print(f'\n{title} constant')
    for name, found in figures[title].items():
      cells = (
        f'{x["ms"]:9.1f} ms{x["temp_mib"]:6.0f} MiB' for x in found.values()
      )
      slopes = (
        f'{label} {slope(found, key):+.2f}' for key, label in MEASURES.items()
      )
      print(f'{name:12}', *cells, ' ', *slopes)
  if args.save:
    protocol.save('heads', figures)


if __name__ == '__main__':
  main()
