# SPDX-License-Identifier: Apache-2.0
"""One of two processes that all-reduce, for benchmarks.accelerator.

python -m benchmarks.accelerator_pair RANK PORT BYTES
"""

import functools
import json
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

CALLS = 20


def main(rank, port, size):
  jax.distributed.initialize(
    f'127.0.0.1:{port}', 2, rank, local_device_ids=[rank]
  )
  mesh = jax.make_mesh((2,), ('processes',))
  split = PartitionSpec('processes')
  x = jax.make_array_from_process_local_data(
    NamedSharding(mesh, split), np.ones((1, size // 4), np.float32)
  )
  add = functools.partial(jax.lax.psum, axis_name='processes')
  run = jax.jit(
    jax.shard_map(add, mesh=mesh, in_specs=split, out_specs=PartitionSpec())
  )
  np.testing.assert_array_equal(jnp.asarray(run(x).addressable_data(0)), 2)
  seconds = []
  for _ in range(CALLS):
    start = time.perf_counter()
    jax.block_until_ready(run(x))
    seconds.append(time.perf_counter() - start)
  middle = float(np.median(seconds))
  if rank == 0:
    # Of two, each sends and receives as much as it has.
    print(json.dumps(dict(ms=1e3 * middle, gb_per_s=size / middle / 1e9)))


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
