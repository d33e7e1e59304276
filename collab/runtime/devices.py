# SPDX-License-Identifier: Apache-2.0
"""What the devices can compute at most, and how much memory they have used."""

import functools
import resource
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

# Dense matrix products of bfloat16, FLOP/s of what JAX calls a device, from the
# makers' tables: cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e; NVIDIA's data
# sheets of H200, H100, A100, L4 and V100, whose figures with sparsity are twice
# these.
PEAKS = {
  'TPU v3': 61.5e12,  # a core; a chip has two
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,  # v5e
  'TPU v5e': 197e12,
  'TPU v5': 459e12,  # v5p
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,  # v6e
  'TPU v6e': 918e12,
  'NVIDIA H200': 989e12,
  'NVIDIA H100 80GB HBM3': 989e12,  # SXM
  'NVIDIA H100 NVL': 835e12,
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA A100-PCIE-40GB': 312e12,
  'NVIDIA A100 80GB PCIe': 312e12,
  'NVIDIA L4': 121e12,
  'Tesla V100-SXM2-16GB': 125e12,  # of float16: it has no bfloat16
  'Tesla V100-SXM2-32GB': 125e12,
  'Tesla V100-PCIE-16GB': 112e12,
  'Tesla V100-PCIE-32GB': 112e12,
}


# What `peak_bytes` gives, in words.
BYTES = dict(
  device_peak_bytes='peak memory of a device',
  resident_peak_bytes='peak resident set of the process',
)


class Peak(NamedTuple):
  """The most that the devices of a mesh compute together.

  Attributes:
    flops: FLOP/s, None if it is not known.
    source: where the figure is from, in words.
  """

  flops: float | None
  source: str


def peak(mesh: Mesh) -> Peak:
  """The peak of a mesh's devices: known of accelerators, measured of CPUs."""
  device, n = mesh.devices.flat[0], mesh.size
  if device.platform == 'cpu':
    return Peak(_measured(mesh), 'a float32 product, measured')
  if device.device_kind in PEAKS:
    return Peak(n * PEAKS[device.device_kind], 'bfloat16, from the data sheet')
  return Peak(None, f'not known of {device.device_kind}, so there is no MFU')


@functools.cache
def _measured(mesh, n=512):
  """FLOP/s of a product of n x n matrices on all devices at once, best of 10.

  At once, because simulated devices and processes of one host share its cores.
  """
  rows = PartitionSpec(mesh.axis_names)
  square = lambda x: x @ x
  run = jax.jit(jax.shard_map(square, mesh=mesh, in_specs=rows, out_specs=rows))
  sharding = jax.sharding.NamedSharding(mesh, rows)
  x = jnp.ones((mesh.size * n, n), device=sharding)
  jax.block_until_ready(run(x))
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(run(x))
    seconds.append(time.perf_counter() - start)
  return 2 * n**3 * mesh.size / min(seconds)


def peak_bytes() -> dict[str, int]:
  """The most memory used so far, by its name in `BYTES`.

  Of this process' first device; where devices do not say, as CPUs, the resident
  set of the process.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return dict(device_peak_bytes=stats['peak_bytes_in_use'])
  unit = 1 if sys.platform == 'darwin' else 1024
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return dict(resident_peak_bytes=unit * most)
