# SPDX-License-Identifier: Apache-2.0
"""Parameters of which each device holds a part, gathered where they are used.

Within jax.shard_map over the mesh, `boxed` marks the parts. A part is gathered
by `gather` within the block that uses it, so that at most one layer is whole at
a time; what is outside of blocks is gathered by `gather_outside`. A gradient of
a part is the sum over the devices that share the parameter (reduce-scatter).
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
AXIS = 'fsdp'  # of the mesh, over which parameters are split
BLOCK = re.compile(r'layer_(\d+|\*)')  # Blocks in a Stack; see stacked.py


@struct.dataclass
class Split:
  """This device's part of a parameter, which is split along an axis.

  The axis counts from the last, -1, so that it is the same for one layer as for
  several that are stacked.
  """

  part: jax.Array
  axis: int = struct.field(pytree_node=False)


def manual(mesh: Mesh) -> tuple[str, ...]:
  """Returns the axes over which jax.shard_map runs: XLA splits by `tensor`."""
  return tuple(
    axis for axis in mesh.axis_names if axis != TENSOR or mesh.shape[axis] == 1
  )


def without_tensor(spec: PartitionSpec) -> PartitionSpec:
  """Returns what jax.shard_map over the `manual` axes has to know of a spec."""
  return PartitionSpec(*(None if axis == TENSOR else axis for axis in spec))


def boxed(params: Any, specs: Any) -> Any:
  """Makes Split of the leaves that AXIS splits, by their PartitionSpecs."""

  def box(x, spec):
    return Split(x, spec.index(AXIS) - x.ndim) if AXIS in spec else x

  return jax.tree.map(box, params, specs)


def unboxed(tree: Any) -> Any:
  """Returns the parts in place of the Splits."""
  return _map(lambda x: x.part, tree)


def gather(tree: Any, dtype: Any = None) -> Any:
  """Gathers all Splits, in the dtype of the computation.

  On a CPU in their own dtype: its compiler aborts at gathers of bfloat16 (JAX
  0.10).
  """
  if target().platform == 'cpu':
    dtype = None

  def whole(x):
    part = x.part  # of norms a scale, which they multiply by in float32
    if dtype is not None and part.ndim > 1:
      part = part.astype(dtype)
    return lax.all_gather(part, AXIS, axis=x.axis, tiled=True)

  return _map(whole, tree)


def gather_outside(params: Any, model: Any) -> Any:
  """Gathers the Splits outside of blocks; a Stack gathers its blocks'.

  Args:
    params: parameters, with Splits.
    model: models.Model, whose attentions are in its Stacks.
  """
  if not any_split(params):
    return params
  stacks = {place.name for place in model.attentions()}

  def one(path, x):
    stack, block, *_ = *(getattr(key, 'key', '') for key in path), '', ''
    if stack in stacks and BLOCK.fullmatch(block):
      return x
    return gather(x, model.block.dtype)

  return jax.tree_util.tree_map_with_path(one, params, is_leaf=_is_split)


def after(params: Any, x: jax.Array) -> Any:
  """Returns the parameters such that no Split is gathered before x is there.

  Without this, XLA gathers them all before a loop, as they are the same in each
  turn.
  """
  return _map(lambda p: lax.optimization_barrier((p, x))[0], params)


def while_loop(going: Callable, body: Callable, start: Any) -> Any:
  """Runs jax.lax.while_loop until no device needs it any more.

  In jax.shard_map each device has its own rows, so that one may be done before
  another, whose body still gathers, which takes them all. So all of them go on,
  and the body has to leave alone what is done.
  """
  axes = jax.sharding.get_abstract_mesh().manual_axes

  def anywhere(carry):
    mine = going(carry)
    return lax.psum(mine.astype(jnp.int32), axes) > 0 if axes else mine

  def one(state):
    carry = body(state[1])
    return anywhere(carry), carry

  state = anywhere(start), start
  return lax.while_loop(lambda state: state[0], one, state)[1]


def any_split(tree: Any) -> bool:
  return any(map(_is_split, jax.tree.leaves(tree, is_leaf=_is_split)))


def _is_split(x):
  return isinstance(x, Split)


def _map(f, tree):
  one = lambda x: f(x) if _is_split(x) else x
  return jax.tree.map(one, tree, is_leaf=_is_split)
