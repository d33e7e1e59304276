# SPDX-License-Identifier: Apache-2.0
"""Splits a Pallas call over devices by examples.

XLA cannot partition a kernel by itself. This tells it that examples are
independent, and that no other axis may be split.
"""

from collections.abc import Callable
import functools
import itertools
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_examples(run: Callable, whole: Any, *arguments: Any) -> Any:
  """Runs run(whole, *arguments) on each device, for its own examples.

  Args:
    run: function of `whole` and of arrays [B|1, ...]; returns a tree of
      [B, ...].
    whole: tree of arrays that every device gets whole.
    *arguments: the arrays.
  """
  results = jax.eval_shape(run, whole, *arguments)
  B = jax.tree.leaves(results)[0].shape[0]
  split = custom_partitioning(run)
  split.def_partition(
    functools.partial(_partition, run, B), **_rule(B, whole, arguments, results)
  )
  return split(whole, *arguments)


def _partition(run, B, mesh, arguments, results):
  examples = jax.tree.leaves(results)[0].sharding.spec[0]

  def sharding(x):
    spec = PartitionSpec(examples if x.shape[0] == B else None)
    return NamedSharding(mesh, spec)

  whole, *rest = arguments
  everywhere = NamedSharding(mesh, PartitionSpec())
  whole = jax.tree.map(lambda x: everywhere, whole)
  rest, results = jax.tree.map(sharding, (rest, results))
  return mesh, run, results, (whole, *rest)


def _rule(B, whole, arguments, results):
  """Writes Shardy's rule, 'x y, b z -> b w'; only b may be split."""
  number = itertools.count()

  def factors(x, first='b'):
    return ' '.join(
      first if first and axis == 0 and n == B else f'x{next(number)}'
      for axis, n in enumerate(x.shape)
    )

  inputs = [factors(x, None) for x in jax.tree.leaves(whole)]
  inputs += map(factors, jax.tree.leaves(arguments))
  outputs = map(factors, jax.tree.leaves(results))
  rule = f'{", ".join(inputs)} -> {", ".join(outputs)}'
  axes = tuple(f'x{i}' for i in range(next(number)))
  return dict(sharding_rule=rule, need_replication_factors=axes)
