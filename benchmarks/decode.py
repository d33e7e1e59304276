# SPDX-License-Identifier: Apache-2.0
r"""Times one decoding step of every variant against linen's MHA with a cache.

  ./launch.sh python -m benchmarks.decode [--save]

A case is the whole layer in float32 with D=768 and H=12, and decodes one token
a row. Its cache of S places is nearly full. Each step receives the cache of the
step before, donated so that nothing is copied. The columns:

  share     the time as a share of linen's, in the same run
  limit     the least possible time, the larger of two: reading the cache and
            the parameters at the bandwidth of a sum over 256 MiB, and computing
            the FLOPs at the rate of a 2048-cubed product. Both rates are
            measured in the same run.
  of limit  `limit` as a share of the time
"""

import argparse

from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks import protocol
from benchmarks.attention import LAYERS, D, H
from collab import accounting, attention
from collab.accounting import layer as accounted

ROUNDS = 20


def cases(B, S):
  """Returns {name: (step(params, cache, x) -> (y, cache), arguments)}."""
  modules = {'linen': nn.MultiHeadDotProductAttention(num_heads=H, decode=True)}
  for name, fields in LAYERS.items():
    modules[name] = attention.build(num_heads=H, decode=True, **fields)
  return {name: case(module, B, S) for name, module in modules.items()}


def case(module, B, S):
  x = jnp.ones((B, S, D))
  variables = jax.jit(module.init)(jax.random.key(0), x)
  cache = jax.tree.map(lambda a: nearly_full(a, S), variables['cache'])

  def step(params, cache, x):
    variables = dict(params=params, cache=cache)
    y, changed = module.apply(variables, x, mutable='cache')
    return y, changed['cache']

  token = jax.random.normal(jax.random.key(1), (B, 1, D))
  return step, (variables['params'], cache, token)


def nearly_full(x, S):
  """Fills a cache with random keys and values, nearly to its end.

  The index leaves room for the tokens of all rounds.
  """
  if jnp.issubdtype(x.dtype, jnp.integer):
    return jnp.full_like(x, S - ROUNDS - 2)
  return jax.random.normal(jax.random.key(2), x.shape, x.dtype)


def measured(title, B, S, bandwidth, gemm):
  """Measures the cases; adds parameters, cache size and limit to each."""
  found, extra = cases(B, S), {}
  for name, (_, (params, cache, _)) in found.items():
    fields = dict(num_heads=H) | LAYERS.get(name, LAYERS['mha'])
    cost = accounted.of(fields, D, S, causal=True)
    read = sum(x.nbytes for x in jax.tree.leaves((params, cache)))
    limit = max(read / bandwidth, B * cost.decode / gemm)
    extra[name] = dict(cache=B * cost.cache, limit_ms=1e3 * limit)
  figures = protocol.measure(found, ROUNDS, title, carried=1)
  return {
    name: x | dict(tokens_per_second=1e3 * B / x['ms']) | extra[name]
    for name, x in figures.items()
  }


def table(title, figures):
  print(f'\n{title}')
  print(
    f'{"":20}{"step":>10}{"share":>7}{"tokens/s":>10}{"cache":>10}{"share":>7}'
    f'{"limit":>10}{"of limit":>9}'
  )
  base = figures['linen']
  for name, x in figures.items():
    print(
      f'{name:20}{x["ms"]:7.2f} ms{x["ms"] / base["ms"]:7.2f}'
      f'{x["tokens_per_second"]:10.0f}{accounting.si(x["cache"]):>9}B'
      f'{x["cache"] / base["cache"]:7.2f}{x["limit_ms"]:7.2f} ms'
      f'{x["limit_ms"] / x["ms"]:9.2f}'
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=[512, 2048, 8192]
  )
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 32])
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  bandwidth, gemm = protocol.bandwidth(), protocol.gemm_rate()
  print(
    f'bandwidth: {bandwidth / 1e9:.1f} GB/s\nGEMM: {gemm / 1e9:.0f} GFLOP/s'
  )
  kept = dict(bandwidth=bandwidth, gemm=gemm)
  for S in args.lengths:
    for B in args.batches:
      title = f'decode, B={B}, S={S}'
      figures = measured(title, B, S, bandwidth, gemm)
      table(title, figures)
      kept[title] = figures
  if args.save:
    protocol.save('decode', kept)


if __name__ == '__main__':
  main()
