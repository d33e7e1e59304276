# SPDX-License-Identifier: Apache-2.0
"""A layer on an input that is sharded over an Explicit mesh axis.

Run as a program by test_explicit_mesh; prints JSON.
"""

import json
import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from collab import attention


def main(name):
  layer = attention.build(name, num_heads=3)
  x = jax.random.normal(jax.random.key(0), (8, 12, 24))
  params = layer.init(jax.random.key(1), x)
  mesh = jax.make_mesh((2, 2), ('data', 'model'))
  layout = NamedSharding(mesh, PartitionSpec('data', None, None))
  split = jax.device_put(x, layout)

  def grad(params, x):
    mask = attention.Mask(causal=True)
    f = lambda params, x: (layer.apply(params, x, mask=mask) ** 2).sum()
    return jax.grad(f, (0, 1))(params, x)

  want = jax.jit(grad)(params, x)
  eager = layer.apply(params, split)  # without jax.set_mesh
  with jax.set_mesh(mesh):
    got = jax.jit(grad)(params, split)
  pairs = zip(*map(jax.tree.leaves, (want, got)), strict=True)
  pairs = [jax.device_get(pair) for pair in pairs]
  apart = max(np.abs(a - b).max() for a, b in pairs)
  print(
    json.dumps(
      dict(
        devices=jax.device_count(),
        eager=eager.sharding.is_equivalent_to(layout, 3),
        jit=got[1].sharding.is_equivalent_to(layout, 3),
        apart=float(apart / max(np.abs(a).max() for a, _ in pairs)),
      )
    )
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
