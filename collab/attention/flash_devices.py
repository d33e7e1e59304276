# SPDX-License-Identifier: Apache-2.0
"""A Pallas call over several devices: each takes its examples.

XLA cannot see into a kernel, and does not split what it cannot see into. Here
it is told that examples are independent and that nothing else may be split.
"""

import functools

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_examples(run, *arguments):
  """run(*arguments), on each device for the examples that it has.

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
    return NamedSharding(
      mesh, PartitionSpec(examples if x.shape[0] == B else None)
    )

  arguments, results = jax.tree.map(sharding, (arguments, results))
  return mesh, run, results, arguments


def _rule(B, arguments, results):
  """Shardy's rule: 'b x y, b z -> b w', of which only b may be split."""
  whole = []

  def factors(x):
    names = ['b' if i == 0 and n == B else None for i, n in enumerate(x.shape)]
    for i, name in enumerate(names):
      if name is None:
        names[i] = f'x{len(whole)}'
        whole.append(names[i])
    return ' '.join(names)

  sides = [
    ', '.join(map(factors, jax.tree.leaves(side)))
    for side in (arguments, results)
  ]
  return dict(
    sharding_rule=' -> '.join(sides), need_replication_factors=tuple(whole)
  )
