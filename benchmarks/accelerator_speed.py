# SPDX-License-Identifier: Apache-2.0
"""The timed cases of benchmarks.accelerator.

Axes: B batch, T tokens, S places of a cache, D model, H heads.
"""

import functools
import math

from flax import linen as nn
import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.accelerator_cases import (
  BF16,
  KERNELS,
  KEY,
  Case,
  Program,
  beside,
  noise,
  timed,
)
from benchmarks.attention import LAYERS
from collab import attention, models
from collab.accounting import trace
from collab.metrics import tokens
from collab.runtime import devices

FORCED = ('mha', 'mqa', 'mhe_mul', 'mhe_add', 'collab, k=192', 'skv')
FORCED += ('mla, r=128',)
DECODED = ('mha', 'mqa', 'mhe_mul', 'mhe_add', 'collab, k=192', 'mla, r=128')
DECODE_STEPS = 20  # in one program, so that starting it does not count


# Peaks ------------------------------------------------------------------------


def peaks(size):
  """The rates that others are shares of."""

  def matrix():
    x = Shape((size.square, size.square), BF16)
    program = Program(lambda x, y: (x @ y,), x, x)

    def finish(results):
      program.arguments = [noise(x), noise(x)]
      (seconds,) = timed(size, program)
      flops = 2 * size.square**3 / seconds
      known = known_peak()
      found = dict(ms=1e3 * seconds, tflops=flops / 1e12)
      return found | (dict(of_known_peak=flops / known) if known else {})

    return finish

  def copy():
    x = Shape((size.copied // 4,), jnp.float32)
    program = Program(lambda x: (x + 1,), x)

    def finish(results):
      program.arguments = [noise(x)]
      (seconds,) = timed(size, program)
      rate = 2 * size.copied / seconds
      return dict(ms=1e3 * seconds, gb_per_s=rate / 1e9)

    return finish

  group = 'measured rates'
  return [
    [
      Case('peaks', group, 'bfloat16 matrix product', matrix),
      Case('peaks', group, 'copy', copy),
    ]
  ]


def known_peak():
  """FLOP/s by the maker's table, None if it has no such device."""
  return devices.PEAKS.get(jax.devices()[0].device_kind)


def matrix_rate(results):
  """FLOP/s of the measured product; NaN if that failed."""
  found = results.figures('peaks', 'measured rates', 'bfloat16 matrix product')
  return 1e12 * found.get('tflops', math.nan)


def bandwidth(results):
  found = results.figures('peaks', 'measured rates', 'copy')
  return 1e9 * found.get('gb_per_s', math.nan)


# Layers -----------------------------------------------------------------------


def layers(size):
  """Forward and backward of whole layers, causal, bfloat16."""
  return [_layers(size, *shape) for shape in size.layers]


def variants(size):
  """{name: fields}: by the layers' own choice, then with kernels forced."""
  forced = {
    f'{name}, {kernel}': dict(LAYERS[name], implementation=kernel)
    for kernel in KERNELS[jax.default_backend()]
    for name in FORCED
    if name in size.variants
  }
  return {name: LAYERS[name] for name in size.variants} | forced


def _layers(size, D, H, T):
  backend = jax.default_backend()
  shape, shared = Shape((max(1, size.tokens // T), T, D), BF16), {}
  makers = variants(size)
  base = 'mha, cudnn' if backend == 'gpu' else 'mha'
  makers = {base: makers[base]} | makers
  made = {
    name: functools.partial(attention.build, num_heads=H, dtype=BF16, **fields)
    for name, fields in makers.items()
  }
  linen = functools.partial(nn.MultiHeadDotProductAttention, H, dtype=BF16)
  made['linen'] = linen
  fused = 'cudnn' if backend == 'gpu' else None
  made[f'linen, jax.nn {fused or ""}'.strip()] = functools.partial(
    linen,
    attention_fn=lambda q, k, v, **_: jax.nn.dot_product_attention(
      q, k, v, is_causal=True, implementation=fused
    ),
  )
  return [
    Case(
      'layers',
      f'D={D}, H={H}, T={T}, {size.tokens} tokens',
      name,
      functools.partial(
        _layer, size, shape, make, name == 'linen', shared, name == base
      ),
      base=name == base,
    )
    for name, make in made.items()
  ]


def _layer(size, x, make, dense, shared, base):
  layer = make()
  params = jax.eval_shape(layer.init, KEY, x)['params']

  def run(params, x, cotangent):
    def forward(params, x):
      ours = attention.Mask(causal=True)
      mask = nn.make_causal_mask(x[:1, :, 0], dtype=bool) if dense else ours
      if isinstance(layer, nn.MultiHeadDotProductAttention) and not dense:
        mask = None
      return layer.apply({'params': params}, x, mask=mask)

    y, pull = jax.vjp(forward, params, x)
    return ((y, pull(cotangent)),)

  flops = trace.flops(run, params, x, x)
  program = Program(run, params, x, x)

  def finish(results):
    program.arguments = [noise(params, 0.03), noise(x), noise(x)]
    found = beside(size, program, shared, base)
    rate = 1e3 * flops / found['ms']
    return found | dict(
      kernel=program.kernel,
      tflops=rate / 1e12,
      of_matrix_rate=rate / matrix_rate(results),
      temporary_mib=program.temporary / 2**20,
      compile_s=program.compile_s,
    )

  return finish


# Training steps ---------------------------------------------------------------


def steps(size):
  """Steps of a decoder with Adam, bfloat16, no dropout."""
  return [
    _steps(size, *shape, remat)
    for shape in size.steps
    for remat in ('none', 'full')
  ]


def _steps(size, D, H, num_layers, remat):
  rows, T = size.batch
  model = dict(
    dim=D,
    num_layers=num_layers,
    mlp_dim=4 * D,
    vocab_size=size.vocabulary,
    max_length=T,
    dropout=0.0,
    dtype=BF16,
    remat=remat,
  )
  return [
    Case(
      'steps',
      f'{num_layers} x {D}, H={H}, T={T}, remat={remat}',
      name,
      functools.partial(
        _step,
        size,
        model
        | dict(
          attention=dict(LAYERS[name.split(',')[0]], num_heads=H),
          scan='unrolled' not in name,
        ),
        rows,
        'whole logits' in name,
      ),
    )
    for name in size.trained
  ]


def _step(size, fields, rows, whole_logits):
  model = models.build('decoder', **fields)
  T, V = model.max_length, model.vocab_size
  params = models.shapes(model)
  tx = optax.adam(1e-4)
  opt = jax.eval_shape(tx.init, params)

  def loss(params, batch):
    if whole_logits:
      logits = model.apply({'params': params}, batch).astype(jnp.float32)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['labels']
      ).mean()
    sums = tokens.of_batch(model, params, batch, {})  # as train.py
    return sums['loss'] / sums['weight']

  def step(params, opt, batch):
    mean, gradient = jax.value_and_grad(loss)(params, batch)
    updates, opt = tx.update(gradient, opt, params)
    return mean, optax.apply_updates(params, updates), opt

  def compiled(rows):
    ids = Shape((rows, T), jnp.int32)
    batch = dict(tokens=ids, labels=ids, weights=Shape((rows, T), jnp.float32))
    # The model's: what remat computes again does not count, see speed.py.
    flops = 3 * trace.flops(loss, params, batch)
    return Program(step, params, opt, batch, carried=2), flops

  def measured(program, flops, rows, results):
    draw = np.random.default_rng(0).integers(0, V, (2, rows, T), np.int32)
    batch = dict(tokens=draw[0], labels=draw[1])
    batch['weights'] = np.ones((rows, T), np.float32)
    program.arguments = [noise(params, 0.02), models.zeros(opt), batch]
    program.arguments = jax.device_put(program.arguments)
    (seconds,) = timed(size, program)
    rate, known = flops / seconds, known_peak()
    return dict(
      ms=1e3 * seconds,
      tokens_per_s=rows * T / seconds,
      mfu_of_matrix_rate=rate / matrix_rate(results),
      **(dict(mfu_of_known_peak=rate / known) if known else {}),
      rows=rows,
      planned_mib=program.planned / 2**20,
      compile_s=program.compile_s,
    )

  first = compiled(rows)

  def finish(results):
    made, fit = first, rows
    while True:
      try:
        return measured(*made, fit, results)
      except jax.errors.JaxRuntimeError as e:
        if 'RESOURCE_EXHAUSTED' not in str(e) or fit == 1:
          raise
      made[0].arguments = []
      fit //= 2
      made = compiled(fit)

  return finish


# Decoding ---------------------------------------------------------------------


def decode(size):
  """A token a row with a full cache, bfloat16; a step of a layer."""
  return [_decode(size, S, B) for S, B in size.decode]


def _decode(size, S, B):
  D, H = size.width
  shared = {}
  return [
    Case(
      'decode',
      f'D={D}, H={H}, S={S}, B={B}',
      name,
      functools.partial(_decoding, size, S, B, name, shared),
      base=name == 'mha',
    )
    for name in DECODED
    if name in size.variants
  ]


def _decoding(size, S, B, name, shared):
  D, H = size.width
  layer = attention.build(
    num_heads=H, dtype=BF16, param_dtype=BF16, decode=True, **LAYERS[name]
  )
  token = Shape((B, 1, D), BF16)
  shapes = jax.eval_shape(layer.init, KEY, Shape((B, S, D), BF16))
  params, cache = shapes['params'], shapes['cache']

  def run(cache, params, token):
    # A call begins where all but the places of its own tokens are used.
    cache = jax.tree.map(
      lambda x: jnp.full_like(x, S - DECODE_STEPS) if is_index(x) else x, cache
    )

    def step(carried, _):
      cache, x = carried
      y, changed = layer.apply(
        dict(params=params, cache=cache), x, mutable='cache'
      )
      # The next token depends on this one, so that no step is left out.
      return (changed['cache'], token + y), None

    (cache, x), _ = jax.lax.scan(
      step, (cache, token), None, length=DECODE_STEPS
    )
    return x, cache

  program = Program(run, cache, params, token, carried=1)

  def finish(results):
    fill = lambda x: (
      jnp.zeros(x.shape, x.dtype)
      if is_index(x)
      else (jax.random.normal(jax.random.key(0), x.shape, x.dtype))
    )
    held = jax.tree.map(fill, cache)
    program.arguments = [held, noise(params, 0.03), noise(token)]
    read = sum(x.nbytes for x in jax.tree.leaves(program.arguments[:2]))
    found = beside(size, program, shared, name == 'mha')
    found['ms'] /= DECODE_STEPS
    limit = 1e3 * read / bandwidth(results)
    return found | dict(
      tokens_per_s=1e3 * B / found['ms'],
      read_mib=read / 2**20,
      limit_ms=limit,
      of_limit=limit / found['ms'],
      compile_s=program.compile_s,
    )

  return finish


def is_index(x):
  return jnp.issubdtype(x.dtype, jnp.integer)
