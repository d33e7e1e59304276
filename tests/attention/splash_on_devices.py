# SPDX-License-Identifier: Apache-2.0
"""The gradient of splash attention, its batch split over the devices.

Run as a program by test_splash; prints JSON.
"""

import json
import re

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from collab.attention import masks, splash
from collab.training import sharding

B, T, H, K = 8, 67, 3, 8


def grad(q, k, v, valid):
  mask = masks.Mask(causal=True, key_valid=valid)

  def loss(q, k, v):
    o, _ = splash.attend(q, k, v, None, mask, interpret=True)
    return (o**2).sum()

  return jax.grad(loss, (0, 1, 2))(q, k, v)


def main():
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, B, T, H, K)).astype('float32')
  arrays = q, k[:, :, :1], v[:, :, :1], rng.random((B, T)) < 0.7
  mesh = sharding.make_mesh(fsdp=2)
  split = sharding.batch_sharding(mesh)
  run = jax.jit(grad, in_shardings=split).lower(*arrays).compile()
  got = run(*jax.device_put(arrays, split))
  want = jax.jit(grad)(*jax.device_put(arrays, jax.devices()[0]))
  pairs = list(zip(*jax.device_get((want, got)), strict=True))
  apart = max(np.abs(a - b).max() for a, b in pairs)
  found = dict(
    devices=jax.device_count(),
    apart=float(apart / max(np.abs(a).max() for a, _ in pairs)),
    split=got[1].sharding.is_equivalent_to(
      NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))), 4
    ),
    gathers=re.findall('all-gather|all-to-all|permute', run.as_text()),
  )
  print(json.dumps(found))


if __name__ == '__main__':
  main()
