# SPDX-License-Identifier: Apache-2.0
"""The timed cases of benchmarks.accelerator.

Each section is a function of the size. It lists (turn, group, name, measure);
measure(results) returns figures. The most telling cases have the first turn.
Axes: B batch, T tokens, S places of a cache, D model, H heads.
"""

import functools
import itertools
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import protocol
from benchmarks.attention import LAYERS
from collab import attention, models
from collab.accounting import trace
from collab.metrics import tokens
from collab.runtime import devices

BF16 = jnp.bfloat16
FIRST = 'mha', 'mhe_add', 'mhe_mul', 'mqa', 'collab, k=192'
FORCED = *FIRST, 'skv', 'mla, r=128'
FUSED = dict(gpu='cudnn', tpu='splash', cpu='cudnn')  # a CPU's is to fail
CALLED = {'__cudnn$fmha': 'cudnn', 'tpu_custom_call': 'splash'}
TINY = [(2, 64, 64, 4)]  # B, T, D, H
DECODE_STEPS = 20  # in one program, so that starting it does not count
PERIOD = 2**20 + 7  # of random numbers; no two rows of a matrix are alike
# On a CPU, where all is tiny and times mean nothing.
FAST_COMPILE = dict(
  xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True
)


class Size(NamedTuple):
  """Of all cases: the first of two values, or the second if they are tiny."""

  tiny: bool
  variants: tuple = tuple(LAYERS)

  def __call__(self, full, tiny):
    return tiny if self.tiny else full


# What all cases need ----------------------------------------------------------


def layers_of(size):
  """{name: fields}: each variant, some with a kernel forced, and linen."""
  chosen = {name: LAYERS[name] for name in size.variants}
  forced = {
    f'{name}, {kernel}': LAYERS[name] | dict(implementation=kernel)
    for kernel in ('xla', FUSED[jax.default_backend()])
    for name in FORCED
    if name in chosen
  }
  return chosen | dict(linen={}) | forced


def in_turns(size, names, *axes):
  """Lists (turn, name, *shape): all shapes with some names, then with others.

  So the cases of a shape are in a row, and those that follow have other names.
  """
  known = layers_of(size)
  for turn, (some, *shape) in enumerate(itertools.product(names, *axes)):
    yield from ((turn, name, *shape) for name in some if name in known)


def compiled(function, *arguments, carried=None, gpu=None):
  """A protocol.Program; on a CPU it compiles fast and runs slowly."""
  options = dict(cpu=FAST_COMPILE, gpu=gpu).get(jax.default_backend())
  # Nothing may run while XLA compiles and times its choices.
  arguments = jax.block_until_ready(jax.device_put(arguments))
  return protocol.Program(function, arguments, carried, options)


def milliseconds(size, *programs):
  """The median time of a call of each, in the same rounds."""
  each = {x: x for x in programs}
  seconds = protocol.timed(each, range(size(9, 3)), size(0.03, 0.002))
  return [1e3 * float(np.median(seconds[x])) for x in programs]


@functools.lru_cache(1)
def kept(make, *arguments):
  """make(*arguments), once for the cases of a shape, which are in a row."""
  return make(*arguments)


def beside_mha(make, size, shape, name):
  """(program, its ms, their share of MHA's in the same rounds)."""
  mha = kept(make, size, shape, 'mha')
  program = mha if name == 'mha' else make(size, shape, name)
  ms, of_mha = milliseconds(size, program, mha)
  return program, ms, ms / of_mha


def drawn(tree, scale=1.0):
  """Normal numbers for a tree of shapes, 0 for integers; compiles nothing."""
  rng = np.random.default_rng(0)

  def one(x):
    if jnp.issubdtype(x.dtype, jnp.integer):
      return np.zeros(x.shape, x.dtype)
    some = scale * rng.standard_normal(min(x.size, PERIOD), np.float32)
    return np.resize(some.astype(x.dtype), x.shape)

  return jax.tree.map(one, tree)


def variables(layer, x):
  """Shapes of a layer's variables for an input of this shape."""
  return jax.eval_shape(lambda x: layer.init(jax.random.key(0), x), x)


def rates(flops, ms, results):
  """TFLOP/s, and their share of the measured rate and the maker's figure."""
  rate = 1e3 * flops / ms
  known = dict(
    of_matrix_rate=results.peak('matrix product', 'tflops', 1e12),
    mfu=devices.PEAKS.get(jax.devices()[0].device_kind),
  )
  shares = {name: rate / x for name, x in known.items() if x}
  return dict(tflops=rate / 1e12) | shares


# Peaks ------------------------------------------------------------------------


def peaks(size):
  """The rates that others are shares of."""
  for name, measure in (('matrix product', matrix), ('copy', copy)):
    yield 0, 'measured rates', name, functools.partial(measure, size)


def matrix(size, results):
  n = size(8192, 256)
  x = drawn(Shape((n, n), BF16))
  (ms,) = milliseconds(size, compiled(jnp.matmul, x, x.T))
  return dict(ms=ms) | rates(2 * n**3, ms, results)


def copy(size, results):
  x = drawn(Shape((size(2**28, 2**20),), jnp.float32))
  (ms,) = milliseconds(size, compiled(lambda x: x + 1, x))
  return dict(ms=ms, gb_per_s=2e-6 * x.nbytes / ms)


# Layers -----------------------------------------------------------------------


def layers(size):
  """Forward and backward of whole layers, causal, bfloat16."""
  full = [
    (16384 // T, T, D, H)
    for D, H in ((768, 12), (2048, 16))
    for T in (2048, 8192, 512)
  ]
  rest = [name for name in layers_of(size) if name not in FIRST]
  for turn, name, shape in in_turns(size, (FIRST, rest), size(full, TINY)):
    group = 'B={}, T={}, D={}, H={}'.format(*shape)
    yield turn, group, name, functools.partial(layer, size, shape, name)


def layer(size, shape, name, results):
  program, ms, share = beside_mha(layer_program, size, shape, name)
  flops = trace.flops(program.function, *program.arguments)
  text, plan = program.compiled.as_text(), program.compiled.memory_analysis()
  kernel = next((CALLED[x] for x in CALLED if x in text), 'xla')
  found = dict(ms=ms, share=share, kernel=kernel) | rates(flops, ms, results)
  found['temporary_mib'] = plan.temp_size_in_bytes / 2**20
  return found | dict(compile_s=program.compile_s)


def layer_program(size, shape, name):
  *shape, H = shape
  x = Shape(shape, BF16)
  mask = lambda x: attention.Mask(causal=True)
  if name == 'linen':
    layer = nn.MultiHeadDotProductAttention(H, dtype=BF16)
    mask = lambda x: nn.make_causal_mask(x[:1, :, 0], dtype=bool)
  else:
    fields = dict(num_heads=H, dtype=BF16)
    layer = attention.build(**fields, **layers_of(size)[name])

  def run(params, x, cotangent):
    forward = lambda p, x: layer.apply({'params': p}, x, mask=mask(x))
    y, pull = jax.vjp(forward, params, x)
    return y, pull(cotangent)

  params = drawn(variables(layer, x)['params'], 0.03)
  return compiled(run, params, *drawn([x, x]))


# Training steps ---------------------------------------------------------------


def steps(size):
  """Steps of a decoder with Adam, bfloat16, no dropout."""
  turns, remats = (FIRST[:2], FIRST[2:4]), ('none', 'full')
  shapes = size([(12, 768, 12), (24, 1024, 16)], [(1, 64, 4)])
  for turn, name, shape, remat in in_turns(size, turns, shapes, remats):
    B, T = size((16, 1024), (2, 32))
    group = '{} x {}, H={}, B={}, T={}, remat={}'.format(*shape, B, T, remat)
    yield (
      turn,
      group,
      name,
      functools.partial(step, size, shape, B, T, remat, name),
    )


def step(size, shape, B, T, remat, name, results):
  L, D, H = shape
  sizes = dict(num_layers=L, dim=D, mlp_dim=4 * D, vocab_size=size(50304, 128))
  how = dict(max_length=T, dropout=0.0, dtype=BF16, remat=remat, scan=True)
  heads = LAYERS[name] | dict(num_heads=H)
  model = models.build('decoder', attention=heads, **sizes, **how)
  adam, params = optax.adam(1e-4), models.shapes(model)
  opt = models.zeros(jax.eval_shape(adam.init, params))
  ids = np.random.default_rng(0).integers(128, size=(B, T), dtype=np.int32)
  batch = dict(tokens=ids, labels=ids, weights=np.ones((B, T), np.float32))

  def loss(params, batch):
    sums = tokens.of_batch(model, params, batch, {})  # as train.py
    return sums['loss'] / sums['weight']

  def run(state, batch):
    params, opt = state
    mean, gradient = jax.value_and_grad(loss)(params, batch)
    updates, opt = adam.update(gradient, opt, params)
    return mean, (optax.apply_updates(params, updates), opt)

  # The model's: what remat computes again is no work of the model.
  flops = 3 * trace.flops(loss, params, batch)
  program = compiled(run, (drawn(params, 0.02), opt), batch, carried=0)
  (ms,) = milliseconds(size, program)
  plan = program.compiled.memory_analysis()
  planned = plan.argument_size_in_bytes + plan.output_size_in_bytes
  planned += plan.temp_size_in_bytes - plan.alias_size_in_bytes
  found = dict(ms=ms, tokens_per_s=1e3 * B * T / ms)
  found |= rates(flops, ms, results) | dict(planned_mib=planned / 2**20)
  return found | dict(compile_s=program.compile_s)


# Decoding ---------------------------------------------------------------------


def decode(size):
  """A token a row with a full cache, bfloat16; a step of a layer."""
  turns = FIRST[:3], (*FIRST[3:], 'mla, r=128')
  full = [(B, S, 768, 12) for B in (32, 1) for S in (8192, 2048, 32768)]
  for turn, name, shape in in_turns(size, turns, size(full, TINY)):
    group = 'B={}, S={}, D={}, H={}'.format(*shape)
    yield turn, group, name, functools.partial(decoding, size, shape, name)


def decoding(size, shape, name, results):
  program, ms, share = beside_mha(decode_program, size, shape, name)
  ms /= DECODE_STEPS
  read = sum(x.nbytes for x in jax.tree.leaves(program.arguments[:2]))
  found = dict(ms=ms, share=share, tokens_per_s=1e3 * shape[0] / ms)
  if bandwidth := results.peak('copy', 'gb_per_s', 1e9):
    found['of_bandwidth'] = 1e3 * read / bandwidth / ms
  return found | dict(read_mib=read / 2**20, compile_s=program.compile_s)


def decode_program(size, shape, name):
  B, S, D, H = shape
  kinds = dict(dtype=BF16, param_dtype=BF16)
  layer = attention.build(num_heads=H, decode=True, **kinds, **LAYERS[name])
  shapes = variables(layer, Shape((B, S, D), BF16))
  token = drawn(Shape((B, 1, D), BF16))

  def start(x):
    """A call begins where all but the places of its own tokens are used."""
    is_index = jnp.issubdtype(x.dtype, jnp.integer)
    return jnp.full_like(x, S - DECODE_STEPS) if is_index else x

  def run(cache, params, token):
    def step(carried, _):
      cache, x = carried
      both = dict(params=params, cache=cache)
      y, changed = layer.apply(both, x, mutable='cache')
      # The next token depends on this one, so that no step is left out.
      return (changed['cache'], token + y), None

    carried = jax.tree.map(start, cache), token
    (cache, x), _ = jax.lax.scan(step, carried, None, length=DECODE_STEPS)
    return x, cache

  params = drawn(shapes['params'], 0.03)
  return compiled(run, drawn(shapes['cache']), params, token, carried=0)
