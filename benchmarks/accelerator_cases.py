# SPDX-License-Identifier: Apache-2.0
"""What a case of benchmarks.accelerator is, how large, and how it is timed.

A section is a list of groups, the most telling first; a group is a list of
cases. A case's `prepare` compiles and executes nothing on the device; what it
returns is called with the results so far, executes, and returns figures. So
cases may be compiled in threads, but never while a program runs: that breaks
the capture of CUDA graphs.
"""

from collections.abc import Callable
import math
import time
from typing import Any, NamedTuple

import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import LAYERS

BF16 = jnp.bfloat16
KEY = Shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
# Kernels that can be forced. A CPU has one; the others are rows that fail.
KERNELS = dict(
  gpu=('cudnn', 'xla'), tpu=('splash', 'xla'), cpu=('xla', 'cudnn', 'splash')
)
PERIOD = 2**20 + 7  # of random numbers; no two rows of a matrix are alike
# On a CPU, where all is tiny and times mean nothing.
FAST_COMPILE = dict(
  xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True
)


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
  checked: tuple  # (B, T, D, H) of values
  masks: tuple  # of values
  state: int  # parameters in a checkpoint
  sent: int  # bytes of an all-reduce
  variants: tuple  # of LAYERS
  trained: tuple  # of LAYERS, or with a simpler loss
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
  checked=(2, 256, 256, 4),
  masks=('causal', 'packed', 'padded', 'none'),
  state=10**8,
  sent=2**28,
  variants=tuple(LAYERS),
  trained=(
    'mha',
    'mhe_mul',
    'mhe_add',
    'mqa',
    'mha, whole logits',
    'mha, unrolled',
  ),
  rounds=9,
  sample=0.03,
)
TINY = FULL._replace(
  square=256,
  copied=2**22,
  layers=((64, 4, 64),),
  tokens=128,
  steps=((64, 4, 2),),
  batch=(2, 32),
  vocabulary=128,
  decode=((64, 2), (64, 1)),
  width=(64, 4),
  checked=(2, 32, 32, 4),
  masks=('causal', 'packed'),
  state=10**5,
  sent=2**20,
  trained=('mha', 'mhe_add', 'mha, whole logits'),
  rounds=3,
  sample=0.002,
)
QUICK = TINY._replace(
  steps=((64, 4, 1),),
  decode=((64, 2),),
  variants=('mha', 'mhe_add'),
  trained=('mha',),
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
  def kernel(self):
    """'cudnn' or 'splash' where the program calls it, else 'xla'."""
    text = self._run.as_text()
    calls = {'__cudnn$fmha': 'cudnn', 'tpu_custom_call': 'splash'}
    return next((name for call, name in calls.items() if call in text), 'xla')

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
  return jax.device_put(drawn(tree, scale))


def drawn(tree, scale=1.0):
  """The same in NumPy; PERIOD numbers, again and again."""
  rng = np.random.default_rng(0)

  def one(x):
    if jnp.issubdtype(x.dtype, jnp.integer):
      return np.zeros(x.shape, x.dtype)
    some = scale * rng.standard_normal(min(x.size, PERIOD), np.float32)
    return np.resize(some.astype(x.dtype), x.shape)

  return jax.tree.map(one, tree)
