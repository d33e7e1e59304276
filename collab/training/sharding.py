# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices, and how batches and states are sharded over it.

These shardings choose between one device, data parallelism (every device holds
the state), FSDP (the state is split) and tensor parallelism (also the
computation of a row is split, by models/axes.py). Programs are written for
global arrays and compiled by `jax.jit`, but for models: each device computes
with its own rows, and gathers what is split a layer at a time (gradients.py,
evaluation.py).
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from collab import models
from collab.attention.devices import TENSOR
from collab.models import axes, split, stacked
from collab.runtime import tree_table

AXES = (*split.ROWS, TENSOR)
# Smaller leaves (in elements) are replicated, because gathering them costs more
# latency than it saves memory.
SMALL = 1 << 12


def make_mesh(fsdp: int = 1, tensor: int = 1) -> Mesh:
  """Makes a mesh [data, fsdp, tensor] of all devices.

  Args:
    fsdp: number of devices that the state is split over; 1 replicates it.
    tensor: number of devices, of one host, that heads, MLPs and vocabulary are
      split over; they compute with the same rows.

  Raises:
    ValueError: the number of devices is not data * fsdp * tensor, or `tensor`
      does not divide that of a host.
  """
  n, here = jax.device_count(), jax.local_device_count()
  if tensor < 1 or here % tensor:
    raise ValueError(
      f'tensor={tensor} does not divide the {here} devices of a host; legal '
      f'are {_divisors(here)}.'
    )
  if fsdp < 1 or n // tensor % fsdp:
    of = f' / tensor={tensor}' if tensor > 1 else ''
    raise ValueError(
      f'fsdp={fsdp} does not divide the {n} devices{of}; legal are '
      f'{_divisors(n // tensor)}.'
    )
  # Auto, because linen does not support Explicit axes, which make_mesh makes by
  # default.
  mesh = jax.make_mesh(
    (n // tensor // fsdp, fsdp, tensor),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
  )
  for row in mesh.devices.reshape(-1, tensor):
    if len({device.process_index for device in row}) > 1:
      raise ValueError(
        f'tensor={tensor} would split heads over several hosts, the way in '
        f'which JAX places a mesh of {dict(mesh.shape)}.'
      )
  return mesh


def _divisors(n):
  return ', '.join(str(i) for i in range(1, n + 1) if n % i == 0)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading axis over all devices but those of `tensor`."""
  return NamedSharding(mesh, PartitionSpec(split.ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
  """Keeps everything on every device."""
  return NamedSharding(mesh, PartitionSpec())


def rules(
  mesh: Mesh, model: models.Model, params: Any, changes: str
) -> axes.Rules | None:
  """Returns axes.rules of a model's parameters, None if no device splits them.

  Args:
    mesh: mesh of `make_mesh`.
    model: models.Model.
    params: its parameters, or anything with their shapes.
    changes: config.rules, see axes.rules.

  Raises:
    ValueError: as in axes.rules.
  """
  axes.parse(changes)  # refuses what it cannot read
  if mesh.shape[split.AXIS] == mesh.shape[TENSOR] == 1:
    return None
  ranks = {k: len(x.shape) for k, x in tree_table.named(params).items()}
  return axes.rules(model, ranks, changes)


def state_shardings(
  mesh: Mesh, abstract_state: Any, rules: axes.Rules | None = None
) -> Any:
  """Chooses a sharding for each leaf of a state.

  `tensor` splits the axes of parameters that the rules say. Of the others
  `fsdp` splits the largest that it divides (the first among equals), but in
  leaves below `SMALL` elements, and never the axis of stacked layers. Moments
  and averages have the sharding of their parameter.

  Args:
    mesh: mesh of `make_mesh`.
    abstract_state: pytree of anything with a shape, as `jax.eval_shape` gives;
      with `rules` a dict with `params`.
    rules: axes of the parameters; by default `tensor` splits nothing.

  Returns:
    The same tree of NamedSharding.

  Raises:
    ValueError: `tensor` does not divide an axis that it has to split.
  """
  leaves = tree_table.named(abstract_state)
  found = {name: _spec(mesh, name, x.shape, ()) for name, x in leaves.items()}
  if rules:
    params = tree_table.named(abstract_state['params'])
    for name, param in params.items():
      spec = _spec(mesh, name, param.shape, rules.axes[name], rules.mesh)
      for leaf, x in leaves.items():
        if leaf.endswith(f'/{name}') and x.shape == param.shape:
          found[leaf] = spec
  specs = jax.tree.unflatten(jax.tree.structure(abstract_state), found.values())
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def _spec(mesh, name, shape, names, split_by=()):
  """Returns the PartitionSpec of a leaf; `names` are of its axes, if known."""
  fsdp, tensor = mesh.shape['fsdp'], mesh.shape[TENSOR]
  parts = [None] * len(shape)
  for i, axis in enumerate(names):
    if tensor == 1 or axis not in split_by or split_by[axis] != TENSOR:
      continue
    if shape[i] % tensor == 0:
      parts[i] = TENSOR
    elif axis not in axes.OPTIONAL:
      raise ValueError(
        f'tensor={tensor} does not divide {axis}={shape[i]} of {name}.'
      )
  free = [
    i
    for i, size in enumerate(shape)
    if size % fsdp == 0
    and not parts[i]
    and names[i : i + 1] != (stacked.LAYERS,)
  ]
  if fsdp > 1 and np.prod(shape) >= SMALL and free:
    parts[max(free, key=lambda i: shape[i])] = 'fsdp'
  while parts and parts[-1] is None:
    parts.pop()
  return PartitionSpec(*parts)


def moved(tree: Any, mesh: Mesh) -> Any:
  """Moves a tree to a mesh, split by `state_shardings`, unless it is there."""

  def there(x):
    found = x.sharding if isinstance(x, jax.Array) else None
    return isinstance(found, NamedSharding) and found.mesh == mesh

  if all(map(there, jax.tree.leaves(tree))):
    return tree
  return jax.device_put(tree, state_shardings(mesh, tree))


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
  devices = _parts(sharding)
  if b % devices:
    raise ValueError(
      f'A batch of {b} rows does not divide over {devices} devices; legal are '
      f'multiples of {devices}.'
    )
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


def _parts(sharding):
  """Returns in how many parts a sharding splits the rows of this host."""
  n = len(sharding.device_set)
  parts = n // sharding.shard_shape((n,))[0]
  return parts * len(sharding.addressable_devices) // n
