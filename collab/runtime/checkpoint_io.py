# SPDX-License-Identifier: Apache-2.0
"""Reads and writes one checkpoint, with the checksums of its leaves.

A checkpoint has two items: `state`, the arrays, and `leaves`, a JSON table
name -> shape, checksum.
"""

import functools
import logging
import sys
from typing import Any

import absl.logging
import jax.numpy as jnp
import orbax.checkpoint as ocp

from collab.io import sealed
from collab.runtime import tree_table


def silence_orbax() -> None:
  """Silences Orbax's logging: its errors are raised here, in one line."""
  absl.logging.get_absl_logger().addFilter(_not_by_orbax)
  # Tasks that Orbax abandons after an error report it again when collected.
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  if getattr(sys.excepthook, 'func', None) is not _but_closed_loops:
    sys.excepthook = functools.partial(_but_closed_loops, sys.excepthook)


def _but_closed_loops(hook, kind, value, trace):
  """Hides an error that TensorStore's threads print after a failed write."""
  if (kind, str(value)) != (RuntimeError, 'Event loop is closed'):
    hook(kind, value, trace)


def _not_by_orbax(record):
  return '/orbax/' not in record.pathname


class OtherModel(ValueError):
  """Raised for a good checkpoint of another model."""


def handlers() -> dict[str, ocp.CheckpointHandler]:
  return dict(
    state=ocp.PyTreeCheckpointHandler(), leaves=ocp.JsonCheckpointHandler()
  )


def save(
  manager: ocp.CheckpointManager, step: int, state: Any, metrics: dict
) -> None:
  """Starts writing; `state` may be donated as soon as this returns."""
  shapes, sums = tree_table.shapes(state), tree_table.checksums(state)
  table = {name: [shapes[name], sums[name]] for name in shapes}
  items = ocp.args.Composite(
    state=ocp.args.PyTreeSave(state),
    leaves=ocp.args.JsonSave(sealed.seal('table', table)),
  )
  manager.save(step, args=items, metrics=metrics)


def abstract(manager: ocp.CheckpointManager, step: int) -> dict:
  """Returns a checkpoint's tree as ShapeDtypeStructs on one device."""
  found = manager.restore(
    step, args=ocp.args.Composite(leaves=ocp.args.JsonRestore())
  )
  table = _unseal(found['leaves'], step)
  return tree_table.tree({name: shape for name, (shape, _) in table.items()})


def _unseal(leaves, step):
  """Returns the table of leaves; OSError if damaged or of another step."""
  table = sealed.unseal('table', leaves)
  saved = table.get('step')
  if saved and saved[1] != int(tree_table.checksum(jnp.int32(step))):
    raise OSError(f'it is not of step {step}, but was renamed')
  return table


def restore(manager: ocp.CheckpointManager, step: int, abstract: Any) -> Any:
  """Reads a whole state, or its parameters alone.

  Args:
    manager: ocp.CheckpointManager with `handlers`.
    step: step of the checkpoint.
    abstract: pytree of ShapeDtypeStruct with shardings; dict(params=...) for
      the parameters alone.

  Raises:
    OtherModel: leaves differ in name, type or shape.
    Exception: any kind, OSError for a wrong checksum: the checkpoint is
      damaged.
  """

  def read(**items):
    return manager.restore(step, args=ocp.args.Composite(**items))

  table = _unseal(read(leaves=ocp.args.JsonRestore())['leaves'], step)
  if len(abstract) == 1:  # a part of the state
    (part,) = abstract
    table = {k: v for k, v in table.items() if k.split('/')[0] == part}
  found = {name: shape for name, (shape, _) in table.items()}
  if differences := tree_table.differences(tree_table.shapes(abstract), found):
    raise OtherModel(
      f'{manager.directory}/{step} is of another model: {differences}.'
    )
  arrays = ocp.args.PyTreeRestore(
    abstract,
    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
    partial_restore=True,
  )
  tree = read(state=arrays)['state']
  sums = tree_table.checksums(tree)
  if bad := [name for name in sums if sums[name] != table[name][1]]:
    raise OSError(f'checksum of {", ".join(bad)}')
  return tree
