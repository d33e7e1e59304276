# SPDX-License-Identifier: Apache-2.0
"""The cases of benchmarks.accelerator, by section.

A section is a list of groups, the most telling first; a group is a list of
cases. A case's `prepare` compiles and executes nothing on the device; what it
returns is called with the results so far, executes, and returns figures. So
cases may be compiled in threads, but never while a program runs: that breaks
the capture of CUDA graphs.

Axes: B batch, T tokens, S places of a cache, D model, H heads.
"""

from collections.abc import Callable
import functools
import math
import time
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.attention import LAYERS
from collab import attention, models
from collab.accounting import trace
from collab.metrics import tokens
from collab.runtime import devices

BF16 = jnp.bfloat16
KEY = Shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
# Kernels that can be forced. A CPU has one; the others are rows that fail.
KERNELS = dict(
  gpu=('cudnn', 'xla'), tpu=('splash', 'xla'), cpu=('xla', 'cudnn', 'splash')
)
FORCED = (
  'mha',
  'mqa',
  'mhe_mul',
  'mhe_add',
  'collab, k=192',
  'skv',
  'mla, r=128',
)
TRAINED = ('mha', 'mhe_mul', 'mhe_add', 'mqa')
DECODED = ('mha', 'mqa', 'mhe_mul', 'mhe_add', 'collab, k=192', 'mla, r=128')
# On a CPU, where all is tiny and times mean nothing.
FAST_COMPILE = dict(
  xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True
)
DECODE_STEPS = 20  # in one program, so that starting it does not count


class Size(NamedTuple):
  """How large the cases are; see FULL for the meaning by example."""

  square: int  # of the matrix product
  copied: int  # bytes of the copy
  layers: tuple  # (D, H, T)
  tokens: int  # of a layer, B T
  steps: tuple  # (D, H, layers)
  batch: tuple  # (rows, T) of a step
  vocabulary: int
  decode: tuple  # (S, B)
  width: tuple  # (D, H) of decoding
  variants: tuple  # of LAYERS
  rounds: int
  sample: float  # seconds of a sample, at least


FULL = Size(
  square=8192,
  copied=2**30,
  layers=(
    *((768, 12, T) for T in (2048, 8192, 512)),
    *((2048, 16, T) for T in (2048, 8192, 512)),
  ),
  tokens=16384,
  steps=((768, 12, 12), (1024, 16, 24)),
  batch=(16, 1024),
  vocabulary=50304,
  decode=tuple((S, B) for B in (32, 1) for S in (8192, 2048, 32768)),
  width=(768, 12),
  variants=tuple(LAYERS),
  rounds=9,
  sample=0.03,
)
TINY = FULL._replace(
  square=256,
  copied=2**22,
  layers=((64, 4, 64), (64, 4, 128)),
  tokens=128,
  steps=((64, 4, 2),),
  batch=(2, 32),
  vocabulary=128,
  decode=((64, 2), (64, 1)),
  width=(64, 4),
  rounds=3,
  sample=0.002,
)
QUICK = TINY._replace(
  layers=((64, 4, 64),), decode=((64, 2),), variants=('mha', 'mqa', 'mhe_add')
)


class Case(NamedTuple):
  """A row of the table.

  Attributes:
    section, group, name: what it is.
    prepare: () -> (results -> dict of figures), see the module.
    base: whether others of the group are timed beside it; it runs first, and
      again whenever another one does.
  """

  section: str
  group: str
  name: str
  prepare: Callable[[], Callable[[Any], dict]]
  base: bool = False


# Compiling and timing ---------------------------------------------------------


class Program:
  """A compiled function, with the arguments that calls take.

  Args:
    function: returns (result, *the next values of the first arguments).
    shapes: shapes of the arguments.
    carried: how many of the first arguments each call consumes and renews.
    options: of the compiler.
  """

  def __init__(self, function, *shapes, carried=0, options=None):
    start = time.perf_counter()
    jitted = jax.jit(function, donate_argnums=tuple(range(carried)))
    if jax.default_backend() == 'cpu':
      options = FAST_COMPILE
    self._run = jitted.lower(*shapes).compile(options)
    self.compile_s = time.perf_counter() - start
    self._carried, self.arguments = carried, []

  def __call__(self):
    result, *renewed = self._run(*self.arguments)
    self.arguments[: self._carried] = renewed
    return result

  @property
  def temporary(self):
    """Bytes of temporaries that XLA plans for."""
    return self._run.memory_analysis().temp_size_in_bytes

  @property
  def planned(self):
    """Bytes of arguments, results and temporaries that XLA plans for."""
    plan = self._run.memory_analysis()
    whole = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return whole + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def timed(size, *programs):
  """Median seconds of a call of each, in rounds that call all in turn.

  A sample is so many calls in a row that gaps between them do not count; their
  results are waited for once.
  """

  def sample(program, calls):
    start = time.perf_counter()
    for _ in range(calls):
      result = program()
    jax.block_until_ready((result, program.arguments))
    return (time.perf_counter() - start) / calls

  calls = []
  for program in programs:
    sample(program, 1)
    calls.append(math.ceil(min(100, size.sample / sample(program, 2))))
  rounds = [
    [sample(*each) for each in zip(programs, calls, strict=True)]
    for _ in range(size.rounds)
  ]
  return np.median(rounds, 0).tolist()


def beside(size, program, shared, base):
  """Figures ms and, if the group's base has run, the share of its time."""
  if base:
    shared['base'] = program
  if 'base' not in shared:
    (seconds,) = timed(size, program)
    return dict(ms=1e3 * seconds)
  seconds, other = timed(size, program, shared['base'])
  return dict(ms=1e3 * seconds, share=1.0 if base else seconds / other)


def noise(tree, scale=1.0):
  """Normal numbers for a tree of shapes, 0 for integers; compiles nothing."""
  rng = np.random.default_rng(0)

  def one(x):
    if jnp.issubdtype(x.dtype, jnp.integer):
      return jax.device_put(np.zeros(x.shape, x.dtype))
    drawn = scale * rng.standard_normal(x.shape, np.float32)
    return jax.device_put(drawn.astype(x.dtype))

  return jax.tree.map(one, tree)


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


def _layers(size, D, H, T):
  backend = jax.default_backend()
  shape, shared = Shape((max(1, size.tokens // T), T, D), BF16), {}
  makers = {name: dict(LAYERS[name]) for name in size.variants}
  makers |= {
    f'{name}, {kernel}': dict(LAYERS[name], implementation=kernel)
    for kernel in KERNELS[backend]
    for name in FORCED
    if name in size.variants
  }
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
  cases = {x: (x, False) for x in TRAINED if x in size.variants}
  cases['mha, whole logits'] = 'mha', True
  return [
    Case(
      'steps',
      f'{num_layers} x {D}, H={H}, T={T}, remat={remat}',
      name,
      functools.partial(
        _step,
        size,
        model | dict(attention=dict(LAYERS[variant], num_heads=H)),
        rows,
        whole_logits,
      ),
    )
    for name, (variant, whole_logits) in cases.items()
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
    program.arguments = [noise(params, 0.02), noise(opt, 0), batch]
    program.arguments = jax.device_put(program.arguments)
    (seconds,) = timed(size, program)
    rate, known = (
      flops / seconds,
      devices.PEAKS.get(jax.devices()[0].device_kind),
    )
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


SECTIONS = dict(peaks=peaks, layers=layers, steps=steps, decode=decode)
