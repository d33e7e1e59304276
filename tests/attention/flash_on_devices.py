# SPDX-License-Identifier: Apache-2.0
"""A layer's gradient by Pallas kernels, its batch split over the devices.

Run as a program by test_flash_devices; prints JSON.
"""

import json
import re
import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from collab import attention
from collab.attention import flash, masks
from collab.training import sharding

B, T = 8, 37


def main(name):
  # The choice is the backend's; what is chosen runs in the interpreter here.
  flash.BACKENDS['cpu'] = flash.Flash('interpret', 16, 128)
  flash.DTYPES['interpret'] = {'float32'}
  layer = attention.build(name, num_heads=3)
  x = jax.random.normal(jax.random.key(0), (B, T, 24))
  valid = np.random.default_rng(0).random((B, T)) < 0.7
  params = layer.init(jax.random.key(1), x)

  def grad(params, x, valid):
    mask = masks.Mask(causal=True, key_valid=valid)
    f = lambda params, x: (layer.apply(params, x, mask=mask) ** 2).sum()
    return jax.grad(f, (0, 1))(params, x)

  mesh = sharding.make_mesh(fsdp=2)
  whole = NamedSharding(mesh, PartitionSpec())
  split = sharding.batch_sharding(mesh)
  run = jax.jit(grad, in_shardings=(whole, split, split))
  run = run.lower(params, x, valid).compile()
  one = jax.devices()[0]
  want = jax.jit(grad)(*jax.device_put((params, x, valid), one))
  got = run(*jax.device_put((params, x, valid), (whole, split, split)))
  pairs = list(
    zip(*map(jax.tree.leaves, jax.device_get((want, got))), strict=True)
  )
  apart = max(np.abs(a - b).max() for a, b in pairs)
  largest = max(np.abs(a).max() for a, _ in pairs)
  found = dict(
    devices=jax.device_count(),
    calls=str(jax.make_jaxpr(grad)(params, x, valid)).count('custom_partition'),
    apart=float(apart / largest),
    split=got[1].sharding.is_equivalent_to(split, 3),
    gathers=re.findall('all-gather|all-to-all|permute', run.as_text()),
  )
  print(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
