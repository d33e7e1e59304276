# SPDX-License-Identifier: Apache-2.0
"""Splits a Pallas call over devices by examples.

XLA cannot partition a kernel by itself. This tells it that examples are
independent, and that no other axis may be split.
"""

import functools
import itertools

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_examples(run, *arguments):
  """Runs run(*arguments) on each device, for the examples on that device.

  Args:
    run: function of trees of arrays [B|1, ...]; returns a tree of [B, ...].
    *arguments: the trees.
  """
  results = jax.eval_shape(run, *arguments)
  B = jax.tree.leaves(results)[0].shape[0]
  split = custom_partitioning(run)
  split.def_partition(
    functools.partial(_partition, run, B), **_rule(B, arguments, results)
  )
  return split(*arguments)


def _partition(run, B, mesh, arguments, results):
  examples = jax.tree.leaves(results)[0].sharding.spec[0]

  def sharding(x):
    spec = PartitionSpec(examples if x.shape[0] == B else None)
    return NamedSharding(mesh, spec)

  arguments, results = jax.tree.map(sharding, (arguments, results))
  return mesh, run, results, arguments


def _rule(B, arguments, results):
  """Writes Shardy's rule, 'b x y, b z -> b w'; only b may be split."""
  number = itertools.count()

  def factors(x):
    return ' '.join(
      'b' if axis == 0 and n == B else f'x{next(number)}'
      for axis, n in enumerate(x.shape)
    )

  rule = ' -> '.join(
    ', '.join(map(factors, jax.tree.leaves(side)))
    for side in (arguments, results)
  )
  whole = tuple(f'x{i}' for i in range(next(number)))
  return dict(sharding_rule=rule, need_replication_factors=whole)
