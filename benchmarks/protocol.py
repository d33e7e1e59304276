# SPDX-License-Identifier: Apache-2.0
"""The timing protocol of all benchmarks, so that figures of one run compare.

Cases are compiled beforehand and warmed up. Then they are timed in rounds:
each round runs every case once, in a newly shuffled order. The figure of a case
is its median over the rounds. Only ratios within one run are quoted.
"""

import collections
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import random
import shlex
import sys
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np

from collab.accounting import trace

RESULTS = pathlib.Path(__file__).parent / 'results'


class Program:
  """A compiled function with its arguments.

  Args:
    function: function of arrays.
    arguments: what calls take.
    carried: index of an argument that each call consumes (it is donated). The
      second result takes its place in the next call.
    options: of XLA's compiler.
  """

  def __init__(self, function, arguments, carried=None, options=None):
    start = time.perf_counter()
    donated = () if carried is None else carried
    jitted = jax.jit(function, donate_argnums=donated)
    self.compiled = jitted.lower(*arguments).compile(options)
    self.compile_s = time.perf_counter() - start
    self.function, self._carried = function, carried
    self.arguments = list(arguments)

  def __call__(self):
    result = self.compiled(*self.arguments)
    if self._carried is not None:
      self.arguments[self._carried] = result[1]
    return result


def timed(programs, rounds, least=0.0):
  """Returns {name: the seconds of a call, in each round}.

  Args:
    programs: dict of name -> Program.
    rounds: iterable, as long as there are rounds.
    least: seconds of a sample, at least: so many calls in a row, whose results
      are waited for once. Then the time to start a call does not count.
  """

  def sample(program, calls=1):
    start = time.perf_counter()
    for _ in range(calls):
      result = program()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls

  calls, seconds = {}, {name: [] for name in programs}
  for name, program in programs.items():
    sample(program)  # warms up
    calls[name] = max(1, math.ceil(min(100, least / sample(program))))
  order, shuffle = list(programs), random.Random(0).shuffle
  for _ in rounds:
    shuffle(order)
    for name in order:
      seconds[name].append(sample(programs[name], calls[name]))
  return seconds


def measure(cases, rounds, title, carried=None):
  """Times compiled functions side by side.

  Args:
    cases: dict of name -> (function, arguments).
    rounds: how often each case runs.
    title: title of the progress bar.
    carried: as in Program.

  Returns:
    dict of name -> dict(ms, low, high, temp_mib): the median and quartiles in
    milliseconds, and the peak of temporary memory that XLA plans for.
  """
  from tqdm import tqdm  # accelerator.py runs without it

  programs = {name: Program(*case, carried) for name, case in cases.items()}
  bar = tqdm(range(rounds), title, leave=False, file=sys.stderr)
  figures = {}
  for name, seconds in timed(programs, bar).items():
    low, ms, high = (1e3 * x for x in np.quantile(seconds, (0.25, 0.5, 0.75)))
    plan = programs[name].compiled.memory_analysis()
    temp = plan.temp_size_in_bytes / 2**20
    figures[name] = dict(ms=ms, low=low, high=high, temp_mib=temp)
  return figures


def products(cases, rounds):
  """Times the matrix products of each case alone, one by one at their shapes.

  Their sum is about the least time of a program with these products. The
  program can be slightly faster if it need not allocate each result.

  Args:
    cases: as in `measure`.
    rounds: how often each product runs.

  Returns:
    dict of name -> dict(product_ms, flops): the sum of the products' times in
    milliseconds, and the sum of their FLOPs.
  """
  counted = {
    name: trace.products(function, *arguments)
    for name, (function, arguments) in cases.items()
  }
  every = sum(counted.values(), collections.Counter())
  alone = {
    p: (
      functools.partial(
        jax.lax.dot_general, dimension_numbers=p.dimension_numbers
      ),
      (jnp.ones(p.left), jnp.ones(p.right)),
    )
    for p in every
  }
  times = measure(alone, rounds, 'products')
  return {
    name: dict(
      product_ms=sum(times[p]['ms'] * n for p, n in found.items()),
      flops=sum(p.flops * n for p, n in found.items()),
    )
    for name, found in counted.items()
  }


def gemm_rate():
  """Measures the FLOP/s of a 2048-cubed float32 product, best of 10."""
  x = jnp.ones((2048, 2048))
  return 2 * 2048**3 / _best(jnp.matmul, x, x)


def bandwidth():
  """Measures the bytes/s of reading 256 MiB, best of 10."""
  x = jnp.ones((64, 2**20))
  return x.nbytes / _best(jnp.sum, x)


def _best(function, *arguments):
  """Returns the seconds of the fastest of 10 runs."""
  run = jax.jit(function).lower(*arguments).compile()
  jax.block_until_ready(run(*arguments))
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def machine():
  """Describes the machine and the versions that the figures depend on."""
  return dict(
    date=datetime.date.today().isoformat(),
    command=shlex.join(['python', '-m', _module(), *sys.argv[1:]]),
    cpu=_cpu(),
    cores=len(os.sched_getaffinity(0)),
    backend=jax.default_backend(),
    python=platform.python_version(),
    jax=jax.__version__,
    flax=flax.__version__,
  )


def save(name, figures):
  """Writes benchmarks/results/<name>.json, with the machine and versions."""
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f'{name}.json'
  path.write_text(
    json.dumps(dict(**machine(), figures=figures), indent=1) + '\n'
  )
  print(f'Kept in {os.path.relpath(path)}.')


def _module():
  return sys.modules['__main__'].__spec__.name


def _cpu():
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:  # not Linux
    return platform.processor()
  names = [x.split(':')[1].strip() for x in lines if x.startswith('model name')]
  return names[0] if names else platform.machine()
