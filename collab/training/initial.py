# SPDX-License-Identifier: Apache-2.0
"""Parameters of an earlier run as the first ones of another."""

import jax

from collab.training import checkpoint, leaves, logs
from collab.training import workdir as workdirs


def load(workdir, params, sharding=None):
  """Replaces what an earlier run has by its parameters, and says what.

  Parameters are the same if name, type and shape are. `head`, which belongs to
  a task, may differ; anything else of the same name and another shape may not.

  Args:
    workdir: of the earlier run; what its own evaluation used is read.
    params: the fresh ones.
    sharding: of what is read, one that all hosts have a part in; by default
      one device.

  Returns:
    A tree like params.

  Raises:
    ValueError: no such run, no good checkpoint, another shape, nothing common.
  """
  config = workdirs.claim(None, workdir)
  checkpoints = checkpoint.Checkpoints(
    workdir, config.checkpoint.keep, config.checkpoint.best, read_only=True
  )
  try:
    abstract = checkpoints.abstract()
    if sharding:
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract,
      )
    found = checkpoint.final_params(config, checkpoints, abstract)
  finally:
    checkpoints.close()
  old, new = leaves.named(found), leaves.named(params)
  shapes = leaves.shapes(new), leaves.shapes(old)
  common = {k for k in new if shapes[0][k] == shapes[1].get(k)}
  wrong = {k for k in new.keys() & old if k not in common}
  wrong = {k for k in wrong if k.split('/')[0] != 'head'}
  if wrong or not common:
    differences = leaves.differences(
      *({k: x[k] for k in wrong or x} for x in shapes)
    )
    raise ValueError(f'init_from={workdir}: {differences}.')
  logs.summary(
    f'init_from {workdir}',
    {
      'loaded': _names(common),
      'fresh': _names(new.keys() - common),
      'not used': _names(old.keys() - common),
    },
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: old.get(name, x) if (name := _name(path)) in common else x,
    params,
  )


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _names(names):
  """'embed (1), encoder (32)': parameters by the part that they belong to."""
  parts = sorted(name.split('/')[0] for name in names)
  counts = {part: parts.count(part) for part in parts}
  return ', '.join(f'{part} ({n})' for part, n in counts.items()) or 'none'
