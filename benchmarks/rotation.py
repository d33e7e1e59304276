# SPDX-License-Identifier: Apache-2.0
r"""Times what rotary positions add to a layer, in each variant's forms.

  ./launch.sh python -m benchmarks.rotation [--save]

A case is forward and backward of the whole layer, causal, on one row of 2,048
tokens in float32 with D=768 and H=12. `share` is of the same variant without
rotation, in the same run.
"""

import argparse

import jax
import jax.numpy as jnp

from benchmarks import protocol
from benchmarks.attention import D, H, with_backward
from collab import attention

T = 2048
ROPE = dict(base=10_000.0)
PART = dict(base=10_000.0, fraction=0.5)
# {variant: (fields without rotation, {form under rotation: further fields})}.
FORMS = {
  'mha': ({}, {'rope': dict(rope=ROPE)}),
  'gqa': (dict(kv_heads=4), {'rope': dict(rope=ROPE)}),
  'collab': (
    dict(shared_dim=192),
    {
      'rope': dict(rope=ROPE),
      'rope, complex mixing': dict(rope=ROPE, mixing='complex'),
    },
  ),
  'mhe_mul': (
    {},
    {
      'rope, faithful': dict(rope=ROPE),
      'rope, folded': dict(rope=ROPE, fold=True),
    },
  ),
  'mhe_add': (
    {},
    {
      'rope, faithful': dict(rope=ROPE),
      'rope of half the width': dict(rope=PART),
    },
  ),
  'mla': (
    dict(latent_dim=128),
    {'rope, decoupled': dict(rope=ROPE, rope_dim=32)},
  ),
}


def cases():
  """Returns {(variant, form): (forward and backward, arguments)}."""
  x, found = jax.random.normal(jax.random.key(1), (1, T, D)), {}
  mask = attention.Mask(causal=True)
  for name, (fields, forms) in FORMS.items():
    for form, more in {'': {}, **forms}.items():
      layer = attention.build(name, num_heads=H, **fields, **more)
      variables = layer.init(jax.random.key(0), jnp.zeros((1, 1, D)))
      run = lambda v, x, layer=layer: layer.apply(v, x, mask=mask)
      found[name, form] = with_backward(run), (variables, x)
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  found = protocol.measure(cases(), args.rounds, 'rotation')
  print(f'\n{"layer":32}{"time":>11}{"share":>7}{"temporary":>13}')
  for (name, form), x in found.items():
    label = f'{name}, {form}' if form else name
    share = x['ms'] / found[name, '']['ms']
    print(f'{label:32}{x["ms"]:8.1f} ms{share:7.2f}{x["temp_mib"]:9.1f} MiB')
  if args.save:
    figures = {', '.join(filter(None, key)): x for key, x in found.items()}
    protocol.save('rotation', figures)


if __name__ == '__main__':
  main()
