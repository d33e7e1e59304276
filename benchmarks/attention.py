# SPDX-License-Identifier: Apache-2.0
r"""Times attention variants and kernels against linen's MHA and jax.nn.

  ./launch.sh python -m benchmarks.attention [--causal] [--save]

Cases are whole layers (projections included) and bare kernels, in float32 with
D=768 and H=12. Each length has 2,048 tokens in all, or one row if that is
longer. Each case is timed forward, and forward plus backward (the gradient to
all parameters and the input). The columns:

  share     the time as a share of linen's, in the same run
  of GEMM   the FLOP rate as a share of that of a 2048-cubed product, measured
            in the same run. FLOPs are those of the matrix products in the
            layer's program, without the blocks that a causal kernel skips.
  products  the time of these matrix products alone, one by one at their
            shapes, and its share of linen's time. The layer can hardly be
            faster.
"""

import argparse

from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks import protocol
from collab import attention
from collab.attention import kernels

D, H, TOKENS = 768, 12, 2048
LAYERS = {
  'mha': dict(name='mha'),
  'gqa, 4 heads': dict(name='gqa', kv_heads=4),
  'mqa': dict(name='mqa'),
  'skv': dict(name='skv'),
  'el': dict(name='el'),
  'collab, k=192': dict(name='collab', shared_dim=192),
  'collab, k=96': dict(name='collab', shared_dim=96),
  'mla, r=128': dict(name='mla', latent_dim=128),
  'sha': dict(name='sha'),
  'mhe_add': dict(name='mhe_add'),
  'mhe_mul': dict(name='mhe_mul'),
}


def layers(x, causal):
  """Returns {layer name: (function of (variables, x), arguments)}."""
  T = x.shape[1]
  linen_mask = None
  if causal:
    linen_mask = nn.make_causal_mask(jnp.ones((1, T)), dtype=bool)
  linen = nn.MultiHeadDotProductAttention(num_heads=H)
  jax_nn = nn.MultiHeadDotProductAttention(
    num_heads=H,
    attention_fn=lambda q, k, v, **_: jax.nn.dot_product_attention(
      q, k, v, is_causal=causal
    ),
  )
  cases = {'linen': (linen, linen_mask), 'linen with jax.nn': (jax_nn, None)}
  mask = attention.Mask(causal=True) if causal else None
  for name, fields in LAYERS.items():
    cases[name] = attention.build(num_heads=H, **fields), mask

  def case(layer, mask):
    variables = layer.init(jax.random.key(0), jnp.zeros((1, T, D)))
    return lambda v, x: layer.apply(v, x, mask=mask), (variables, x)

  return {name: case(*args) for name, args in cases.items()}


def bare_kernels(x, causal):
  """Returns {kernel name: (function, (q, k, v, ...))}.

  The heads are projected already.
  """
  B, T, _ = x.shape
  q = x.reshape(B, T, H, D // H)
  one, bias = q[:, :, :1], q[..., 0]
  mask = attention.Mask(causal=True) if causal else None
  dense = nn.make_causal_mask(x[:, :, 0], dtype=bool) if causal else None

  def ours(kernel):
    return lambda q, k, v, *bias: kernel(
      q * q.shape[3] ** -0.5, k, v, *bias, mask=mask
    )[0]

  return {
    'linen': (lambda *a: nn.dot_product_attention(*a, mask=dense), (q, q, q)),
    'jax.nn': (
      lambda *a: jax.nn.dot_product_attention(*a, is_causal=causal),
      (q, q, q),
    ),
    'grouped, G=12': (ours(kernels.grouped), (q, q, q)),
    'grouped, G=1': (ours(kernels.grouped), (q, one, one)),
    'blockwise, G=12': (ours(kernels.blockwise), (q, q, q)),
    'blockwise, G=1': (ours(kernels.blockwise), (q, one, one)),
    'shared_scores': (ours(kernels.shared_scores), (one, one, one, bias)),
  }


def with_backward(function):
  """Makes a function of the value and its gradient to all arguments."""

  def loss(*arguments):
    return (function(*arguments) ** 2).sum()

  return lambda *arguments: jax.value_and_grad(
    loss, tuple(range(len(arguments)))
  )(*arguments)


def table(title, forward, both, gemm):
  print(f'\n{title}')
  print(
    f'{"":20}{"forward":>10}{"share":>7}{"+backward":>11}{"share":>7}'
    f'{"temporary":>13}{"share":>7}{"of GEMM":>9}{"products":>11}{"share":>7}'
  )
  base = forward['linen'], both['linen']
  for name in forward:
    f, b = forward[name], both[name]
    print(
      f'{name:20}{f["ms"]:7.2f} ms{f["ms"] / base[0]["ms"]:7.2f}'
      f'{b["ms"]:8.2f} ms{b["ms"] / base[1]["ms"]:7.2f}'
      f'{b["temp_mib"]:9.1f} MiB{b["temp_mib"] / base[1]["temp_mib"]:7.2f}'
      f'{b["flops"] / gemm / b["ms"] * 1e3:9.2f}'
      f'{b["product_ms"]:8.2f} ms{b["product_ms"] / base[1]["ms"]:7.2f}'
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=[128, 512, 2048]
  )
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--causal', action='store_true')
  parser.add_argument(
    '--save', action='store_true', help='to benchmarks/results'
  )
  args = parser.parse_args()
  print(*(f'{k}: {v}' for k, v in protocol.machine().items()), sep='\n')
  gemm = protocol.gemm_rate()
  print(f'GEMM: {gemm / 1e9:.0f} GFLOP/s')
  figures = dict(gemm=gemm)
  for T in args.lengths:
    B = max(1, TOKENS // T)
    x = jax.random.normal(jax.random.key(1), (B, T, D), jnp.float32)
    for what, cases in (('layer', layers), ('kernel', bare_kernels)):
      cases = cases(x, args.causal)
      title = f'{what}, B={B}, T={T}{", causal" * args.causal}'
      forward = protocol.measure(cases, args.rounds, f'{title}, forward')
      cases = {name: (with_backward(f), a) for name, (f, a) in cases.items()}
      both = protocol.measure(
        cases, args.rounds, f'{title}, forward and backward'
      )
      for name, limit in protocol.products(cases, args.rounds).items():
        both[name] |= limit
      table(title, forward, both, gemm)
      figures[title] = dict(forward=forward, forward_backward=both)
  if args.save:
    protocol.save('attention_causal' if args.causal else 'attention', figures)


if __name__ == '__main__':
  main()
