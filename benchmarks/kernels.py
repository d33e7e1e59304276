# SPDX-License-Identifier: Apache-2.0
r"""Tells which attention kernel each config runs on a GPU and on a TPU.

  ./launch.sh python -m benchmarks.kernels [--save]

A config's calls of attention are read off its model. Each distinct one (mask,
dropout), and one under a sliding window, is then lowered for both machines,
forward and backward, as a layer of each variant in bfloat16 with 1,152 queries.
Under rope there are the variants whose heads it makes wider. What the table
names was found in the program: cuDNN's call, a Mosaic kernel, or neither (xla).
In XLA a block of queries at a time is an array of queries x keys, of 512 MiB at
most; "naive" is an array of all queries and keys that is larger.

No accelerator is needed: only what is lowered is read, and nothing runs.
"""

import argparse
from collections.abc import Iterable, Mapping
import functools
import importlib
import math
import pathlib
import re
from typing import NamedTuple
from unittest import mock

import jax
from jax import ShapeDtypeStruct as Shape
from jax._src.cudnn import fused_attention_stablehlo as cudnn
import jax.numpy as jnp

from benchmarks.attention import LAYERS
from collab import attention, models
from collab.attention import blocks, kernels, masks
from collab.attention.target import Target, lowering_for
from collab.io import atomic

PATH = pathlib.Path(__file__).parent / 'kernels.md'
FAMILIES = (
  'wmt14', 'lm', 'decoder', 'mlm', 'glue', 'superglue', 'squad', 'vit',
)  # fmt: skip
ROPE = dict(rope=dict(base=10_000.0))
VARIANTS = LAYERS | {
  'skv, 4 heads': dict(name='skv', kv_heads=4),
  'gta, 4 heads': dict(name='gta', kv_heads=4),
  'gla, r=256': dict(name='gla', latent_dim=256),
  'mfa, C=128': dict(name='mfa', query_dim=256, head_width=128),
  'mfa_kr, C=128': dict(name='mfa_kr', query_dim=256, head_width=128),
  'tpa': dict(name='tpa'),
  'mla, r=128, rope': dict(name='mla', latent_dim=128, rope_dim=32, **ROPE),
  'mhe_add, rope': dict(name='mhe_add', **ROPE),
  'mhe_mul, rope': dict(name='mhe_mul', **ROPE),
}
# What a Hopper GPU with cuDNN 9.10 has, and a TPU.
MACHINES = dict(cuda=Target('cuda', (9, 0), 91002), tpu=Target('tpu'))
ROWS, T, S, D, H = 64, 1152, 1280, 768, 12  # S of a memory
WINDOW = 256
FUSED = dict(cuda='__cudnn$fmha', tpu='tpu_custom_call')


class Call(NamedTuple):
  """What of a call decides about the kernel, besides the variant.

  Attributes:
    causal: as in masks.Mask.
    parts: its other parts, by name.
    cross: whether the keys are those of a memory.
    dropout: whether weights are dropped.
  """

  causal: bool
  parts: tuple[str, ...]
  cross: bool
  dropout: bool


def calls(family: str) -> set[Call]:
  """Returns the calls of attention that the model of a config makes."""
  config = importlib.import_module(f'configs.{family}').get_config()
  fields, found = config.model.to_dict(), set()
  if family == 'vit':
    fields |= dict(image_size=224, outputs=1000)
  else:
    fields |= dict(vocab_size=100)
  layers = {name: 1 for name in fields if name.endswith('layers')}
  model = models.build(**fields | layers)
  attend = kernels.attend

  def spy(q, k, v, key_bias, mask, H, *, rate=0.0, **how):
    parts = vars(mask or masks.Mask())
    causal, _ = parts.pop('causal'), parts.pop('offset')
    given = {name: x for name, x in parts.items() if x is not None}
    cross = given.get('q_segments') is not given.pop('kv_segments', None)
    found.add(Call(causal, tuple(given), cross, rate > 0))
    return attend(q, k, v, key_bias, mask, H, rate=rate, **how)

  rngs = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  with mock.patch.object(kernels, 'attend', spy):
    jax.eval_shape(model.init, rngs, model.example(2, 128))
  return found


def lowered(variant: str, call: Call, platform: str) -> str:
  """Lowers a layer's forward and backward pass for a platform, as text."""
  layer = attention.build(
    num_heads=H,
    dtype=jnp.bfloat16,
    dropout_rate=call.dropout / 10,
    **VARIANTS[variant],
  )
  x, keys = Shape((ROWS, T, D), jnp.float32), S if call.cross else T
  memory = Shape((ROWS, keys, D), jnp.float32) if call.cross else None
  ids = dict(q_segments=Shape((ROWS, T), jnp.int32))
  ids |= dict(kv_segments=Shape((ROWS, keys), jnp.int32))
  known = ids if 'q_segments' in call.parts else {}
  if 'key_valid' in call.parts:
    known |= dict(key_valid=Shape((ROWS, keys), bool))
  if 'window' in call.parts:
    known |= dict(window=WINDOW)
  mask = masks.Mask(causal=call.causal, **known)
  init = functools.partial(layer.init, deterministic=True)
  params = jax.eval_shape(init, jax.random.key(0), x, memory)

  def loss(params, x, memory, mask, key):
    how = dict(deterministic=not call.dropout, dropout_rng=key)
    y = layer.apply(params, x, memory, mask=mask, **how)
    return y.astype(jnp.float32).sum()

  key = jax.eval_shape(lambda: jax.random.key(0))
  run = jax.jit(jax.grad(loss, (0, 1)))
  with lowering_for(MACHINES[platform]), gpu_at_hand():
    traced = run.trace(params, x, memory, mask, key)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def gpu_at_hand():
  """Answers JAX's questions about a GPU that is not there."""
  return mock.patch.multiple(
    cudnn,
    check_cudnn_version=lambda: MACHINES['cuda'].cudnn,
    check_compute_capability=lambda _: True,
    is_cuda_compute_capability_equal=lambda _: False,
  )


def kernel(text: str, call: Call, platform: str) -> str:
  """Reads the kernel off a lowered program.

  Returns:
    'cudnn', 'splash', 'xla', or 'naive' where an array of all queries and all
    keys is larger than a block may be.
  """
  keys = S if call.cross else T
  shapes = [
    list(map(int, x.rstrip('x').split('x')))
    for x in set(re.findall(r'tensor<((?:\d+x)+)', text))
  ]
  scores = [x for x in shapes if x[-1] == keys and len(x) == 4]
  whole = [x for x in scores if x[-2] == T]
  if any(4 * math.prod(x) > 2 * blocks.DEFAULT_BLOCK_BYTES for x in whole):
    return 'naive'
  if FUSED[platform] not in text:
    return 'xla'
  if whole:
    return 'naive'
  return dict(cuda='cudnn', tpu='splash')[platform]


def found(variants: Iterable[str] = tuple(VARIANTS)) -> dict[tuple, list[str]]:
  """Finds which variants have which kernels, by call and configs.

  Returns:
    {(keys, mask, dropout, configs, GPU's kernel, TPU's kernel): variants}, all
    as in the table.
  """
  families, result = {}, {}
  for family in FAMILIES:
    for call in sorted(calls(family)):  # a set has no order
      families.setdefault(call, []).append(family)
  families[Call(True, ('window',), cross=False, dropout=False)] = ['none']
  for call, names in families.items():
    mask = ['causal'] * call.causal + list(call.parts)
    about = (
      'memory' if call.cross else 'own',
      ', '.join(mask) or 'none',
      'yes' if call.dropout else 'no',
      ', '.join(names),
    )
    for variant in variants:
      chosen = (
        kernel(lowered(variant, call, platform), call, platform)
        for platform in MACHINES
      )
      result.setdefault((*about, *chosen), []).append(variant)
  return result


def markdown(rows: Mapping[tuple, list[str]]) -> str:
  """Formats what `found` returns."""
  lines = [
    '| keys | mask | dropout | configs | GPU | TPU | variants |',
    '|---|---|---|---|---|---|---|',
  ]
  for row, variants in rows.items():
    lines.append(f'| {" | ".join(row)} | {"; ".join(variants)} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.partition('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--save', action='store_true', help=f'writes {PATH.name}')
  args = parser.parse_args()
  text = markdown(found())
  if args.save:
    atomic.write_text(PATH, text)
  print(text, end='')


if __name__ == '__main__':
  main()
