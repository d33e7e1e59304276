# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices, and how batches and states are sharded over it.

These shardings choose between one device, data parallelism (every device holds
the state) and FSDP (the state is split). Programs are written for global arrays
and compiled by `jax.jit`, but for gradients: each device computes those of its
own rows, and gathers what is split a layer at a time (gradients.py).
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from collab.runtime import tree_table

AXES = ('data', 'fsdp')
# Smaller leaves (in elements) are replicated, because gathering them costs more
# latency than it saves memory.
SMALL = 1 << 12


def make_mesh(fsdp: int = 1) -> Mesh:
  """Makes a mesh [data, fsdp] of all devices, with data = devices / fsdp.

  Args:
    fsdp: number of devices that the state is split over; 1 replicates it.

  Raises:
    ValueError: fsdp does not divide the number of devices.
  """
  n = jax.device_count()
  if fsdp < 1 or n % fsdp:
    legal = ', '.join(str(i) for i in range(1, n + 1) if n % i == 0)
    raise ValueError(
      f'fsdp={fsdp} does not divide the {n} devices; legal are {legal}.'
    )
  # Auto, because linen does not support Explicit axes, which make_mesh makes by
  # default.
  return jax.make_mesh(
    (n // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Keeps everything on every device."""
  return NamedSharding(mesh, PartitionSpec())


def local(tree: Any, mesh: Mesh) -> Any:
  """Returns a state, or a part of it, for this host to use alone.

  With one host it is the tree itself. With several hosts it is a full copy on
  one device of each host, and all hosts have to call this.
  """
  if jax.process_count() == 1:
    return tree
  whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
  return jax.tree.map(lambda x: x.addressable_data(0), whole)


def state_shardings(mesh: Mesh, abstract_state: Any) -> Any:
  """Chooses a sharding for each leaf of a state.

  With fsdp = 1 every leaf is replicated. Otherwise its largest axis that fsdp
  divides is split (the first among equals). Leaves below `SMALL` elements and
  leaves without such an axis are replicated. So parameters, moments and
  averages of one shape get the same sharding.

  Args:
    mesh: mesh of `make_mesh`.
    abstract_state: pytree of anything with a shape, as `jax.eval_shape` gives.

  Returns:
    The same tree of NamedSharding.
  """
  fsdp = mesh.shape['fsdp']

  def spec(shape):
    axes = [i for i, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or np.prod(shape) < SMALL or not axes:
      return PartitionSpec()
    axis = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*[None] * axis, 'fsdp')

  return jax.tree.map(
    lambda x: NamedSharding(mesh, spec(x.shape)), abstract_state
  )


def put(batch: Any, sharding: NamedSharding) -> Any:
  """Places this host's rows on its devices, as parts of global arrays.

  Args:
    batch: pytree of numpy arrays [b, ...] with b the rows of this host, the
      same number on every host.
    sharding: sharding of `batch_sharding`.

  Returns:
    The same tree of jax.Array [b * hosts, ...].

  Raises:
    ValueError: b does not divide over this host's devices, or leaves differ
      in b.
  """
  rows = {np.shape(x)[:1] for x in jax.tree.leaves(batch)}
  if len(rows) != 1 or rows == {()}:
    shapes = tree_table.shapes(batch)
    raise ValueError(f'Leaves of a batch differ in their rows: {shapes}.')
  [(b,)] = rows
  devices = len(sharding.addressable_devices)
  if b % devices:
    raise ValueError(
      f'A batch of {b} rows does not divide over {devices} devices; legal are '
      f'multiples of {devices}.'
    )
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
