# SPDX-License-Identifier: Apache-2.0
"""FSDP (ZeRO-3): a device holds a part of a parameter, and gathers it for use.

Within jax.shard_map over the mesh, `boxed` marks the parts. A layer of the
model calls `gather` for its own parts, so that at most one layer is whole at a
time. `gather_outside` gathers those outside of layers, such as embeddings. The
transpose of a gather is a reduce-scatter: the gradient of a part is summed over
`fsdp`. training/gradients.py sums it over `data`.
"""

from collections.abc import Callable
import re
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from collab.attention.devices import TENSOR
from collab.attention.target import target

ROWS = ('data', 'fsdp')  # axes of the mesh that split a batch
AXIS = 'fsdp'  # the axis of the mesh that splits parameters
# A layer of a Stack, or `layer_*`, all layers stacked; see stacked.py.
BLOCK = re.compile(r'layer_(\d+|\*)')


@struct.dataclass
class Split:
  """This device's part of a parameter, which is split along an axis.

  The axis is negative, -1 for the last, so that it is the same for one layer as
  for several that are stacked.
  """

  part: jax.Array
  axis: int = struct.field(pytree_node=False)


def manual(mesh: Mesh) -> tuple[str, ...]:
  """Returns the axes of the mesh that are manual in jax.shard_map.

  They are all but `tensor`, along which XLA splits the computation. A `tensor`
  of one device is manual as well, as there is nothing to split.
  """
  return tuple(
    axis for axis in mesh.axis_names if axis != TENSOR or mesh.shape[axis] == 1
  )


def without_tensor(spec: PartitionSpec) -> PartitionSpec:
  """Returns a spec without `tensor`, as shard_map's name manual axes only."""
  return PartitionSpec(*(None if axis == TENSOR else axis for axis in spec))


def boxed(params: Any, specs: Any) -> Any:
  """Wraps in a Split each leaf whose PartitionSpec names AXIS."""

  def box(x, spec):
    return Split(x, spec.index(AXIS) - x.ndim) if AXIS in spec else x

  return jax.tree.map(box, params, specs)


def unboxed(tree: Any) -> Any:
  """Returns the parts in place of the Splits."""
  return _map(lambda x: x.part, tree)


def gather(tree: Any, dtype: Any = None) -> Any:
  """Gathers all Splits, of one layer or of what is outside of layers.

  They are cast to `dtype` before, unless it is None. On a CPU they are not,
  because its compiler aborts at gathers of bfloat16 (JAX 0.10).
  """
  if target().platform == 'cpu':
    dtype = None

  def whole(x):
    part = x.part
    # Vectors, such as scales of norms, are used in their own dtype.
    if dtype is not None and part.ndim > 1:
      part = part.astype(dtype)
    return lax.all_gather(part, AXIS, axis=x.axis, tiled=True)

  return _map(whole, tree)


def gather_outside(params: Any, model: Any) -> Any:
  """Gathers the Splits outside of layers; a Stack gathers those of its layers.

  Args:
    params: parameters, with Splits.
    model: models.Model; its `attentions` have the names of its Stacks.
  """
  if not any_split(params):
    return params
  stacks = {place.name for place in model.attentions()}

  def one(path, x):
    names = [getattr(key, 'key', '') for key in path]
    if len(names) > 1 and names[0] in stacks and BLOCK.fullmatch(names[1]):
      return x
    return gather(x, model.block.dtype)

  return jax.tree_util.tree_map_with_path(one, params, is_leaf=_is_split)


def after(params: Any, x: jax.Array) -> Any:
  """Returns the parameters such that no Split is gathered before x is computed.

  Without this XLA hoists the gathers out of a loop over layers, because they
  are the same in each turn, and then all layers are whole at once.
  """
  return _map(lambda p: lax.optimization_barrier((p, x))[0], params)


def while_loop(cond: Callable, body: Callable, start: Any) -> Any:
  """Runs jax.lax.while_loop until `cond` is False on all devices.

  In jax.shard_map each device has its own rows, and would leave the loop at its
  own turn. But gathers in `body` need all devices, and the others would hang.
  So every device runs until all are done, and `body` must not change rows that
  are done.
  """
  axes = jax.sharding.get_abstract_mesh().manual_axes

  def on_any_device(carry):
    mine = cond(carry)
    return lax.psum(mine.astype(jnp.int32), axes) > 0 if axes else mine

  def turn(state):
    carry = body(state[1])
    return on_any_device(carry), carry

  state = on_any_device(start), start
  return lax.while_loop(lambda state: state[0], turn, state)[1]


def any_split(tree: Any) -> bool:
  """Returns whether a tree has Splits."""
  return any(map(_is_split, jax.tree.leaves(tree, is_leaf=_is_split)))


def _is_split(x):
  return isinstance(x, Split)


def _map(f, tree):
  one = lambda x: f(x) if _is_split(x) else x
  return jax.tree.map(one, tree, is_leaf=_is_split)
