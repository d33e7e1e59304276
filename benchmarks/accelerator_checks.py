# SPDX-License-Identifier: Apache-2.0
"""The cases of benchmarks.accelerator on values, checkpoints and two processes.

Axes: B batch, T tokens, D model, H heads.
"""

import functools
import itertools
import multiprocessing
import os
import pathlib
import socket
import tempfile
import time

import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import accelerator_cases as cases
from benchmarks import protocol
from benchmarks.attention import LAYERS
from collab import attention
from collab.runtime import checkpoint_io, tree_table

# Values -----------------------------------------------------------------------


def values(size):
  """Errors of values and gradients, of every variant and forced kernel."""
  every = cases.layers_of(size) | {'mha, plain formula': LAYERS['mha']}
  shape = size((2, 256, 256, 4), (2, 32, 32, 4))
  every_kind = 'causal', 'packed', 'padded', 'none', 'window'
  kinds = size(every_kind, ('packed',))
  kinds = itertools.product(kinds, ('float32', 'bfloat16'))
  for turn, (mask, dtype) in enumerate(kinds):
    group = '{}, {}, B={}, T={}, D={}, H={}'.format(dtype, mask, *shape)
    for name, fields in every.items():
      if name in LAYERS or (dtype == 'bfloat16' and fields):
        plain = 'plain' in name
        what = shape, mask, dtype, fields, plain
        yield turn, group, name, functools.partial(value, *what)


def value(shape, mask, dtype, fields, plain, results):
  layer = attention.build(num_heads=shape[3], dtype=dtype, **fields)
  right = {k: v for k, v in fields.items() if k != 'implementation'}
  right = reference(shape, mask, tuple(right.items()))
  params, *xs = inputs(layer, shape)
  xs = [x.astype(dtype) for x in xs]
  run = functools.partial(passes, layer, mask, plain)
  # Whether a kernel is right does not depend on the tiles of the products.
  gpu = dict(xla_gpu_autotune_level=0)
  # An accelerator's default for float32 has fewer bits.
  with jax.default_matmul_precision('highest' if dtype == 'float32' else None):
    program = cases.compiled(run, params, *xs, gpu=gpu)
  found, gradient = program()
  return dict(
    value_error=error(found, right[0]),
    gradient_error=error(gradient, right[1]),
    compile_s=program.compile_s,
  )


@functools.cache
def reference(shape, mask, fields):
  """Value and gradients by the plain formula in float64, on the CPU."""
  fields = dict(fields, num_heads=shape[3])
  numbers = inputs(attention.build(**fields), shape)
  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    kinds = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    layer = attention.build(**fields, **kinds)
    numbers = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), numbers)
    return jax.device_get(passes(layer, mask, True, *numbers))


def inputs(layer, shape):
  """Parameters, input and cotangent; those two fit bfloat16."""
  x = Shape(shape[:3], cases.BF16)
  params = cases.variables(layer, x)['params']
  return cases.drawn(params, shape[2] ** -0.5), *cases.drawn([x, x])


def passes(layer, mask, plain, params, x, cotangent):
  """Value and gradients; where weights are sown, by the plain formula."""
  how = dict(sow_weights=True, mutable='intermediates') if plain else {}

  def forward(params, x):
    seen = masks(*x.shape[:2])[mask]
    y = layer.apply({'params': params}, x, mask=seen, **how)
    return y[0] if plain else y

  value, pull = jax.vjp(forward, params, x)
  return value, pull(cotangent)


def masks(B, T):
  """'packed' is causal, with three sequences a row."""
  places, lengths = np.arange(T), T - T // 3 * (np.arange(B) % 2)
  segments = np.searchsorted([T // 5, T // 2], places, side='right')
  segments = jnp.asarray(np.tile(segments, (B, 1)))
  return dict(
    causal=attention.Mask(causal=True),
    packed=attention.Mask(causal=True, q_segments=segments),
    padded=attention.Mask(key_valid=jnp.asarray(places < lengths[:, None])),
    window=attention.Mask(causal=True, window=T // 4),
    none=None,
  )


def error(found, right):
  """The largest error of a leaf, as a share of its norm.

  Of leaves below a tenth of the largest norm, as a share of that: some are
  zero but for rounding, as the gradient of a key's bias.
  """
  pairs = zip(*map(jax.tree.leaves, (found, right)), strict=True)
  errors = [np.linalg.norm(np.asarray(x, np.float64) - y) for x, y in pairs]
  norms = np.array(list(map(np.linalg.norm, jax.tree.leaves(right))))
  errors /= np.maximum(norms, norms.max() / 10)
  if not np.isfinite(errors).all():
    raise FloatingPointError('not finite')
  return float(errors.max())


# Checkpoints ------------------------------------------------------------------


def checkpoint(size):
  """A state through the checkpoints of train.py."""
  state = size(10**8, 10**5)
  measure = functools.partial(through_checkpoint, state)
  yield 0, 'of train.py', f'{state:,} numbers', measure


def through_checkpoint(size, results):
  leaf = Shape((size // 20,), jnp.float32)
  params = cases.drawn({f'leaf_{i}': leaf for i in range(20)})
  state = jax.device_put(dict(params=params, step=jnp.int32(1)))
  like = lambda x: Shape(x.shape, x.dtype, sharding=x.sharding)
  checkpoint_io.silence_orbax()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'checkpoints').absolute()
    handlers = checkpoint_io.handlers()
    with ocp.CheckpointManager(path, item_handlers=handlers) as manager:
      clock = [time.perf_counter()]
      for do in (
        lambda: checkpoint_io.save(manager, 1, state, {}),
        manager.wait_until_finished,
        lambda: tree_table.checksums(state),
        lambda: checkpoint_io.restore(manager, 1, jax.tree.map(like, state)),
      ):
        jax.block_until_ready(do())
        clock.append(time.perf_counter())
  names = 'save_s', 'until_written_s', 'checksums_s', 'restore_s'
  seconds = zip(names, np.diff(clock).tolist(), strict=True)
  return dict(seconds, megabytes=4e-6 * size)


# Two processes ----------------------------------------------------------------


def nccl(size):
  """An all-reduce between two processes, of one GPU each where there are."""
  measure = functools.partial(two_processes, size(2**28, 2**20))
  yield 0, 'two processes', 'all-reduce', measure


def two_processes(sent, results):
  if jax.default_backend() != 'cpu' and jax.local_device_count() < 2:
    return dict(skipped='needs two devices')
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  ranks = [(rank, address, sent) for rank in range(2)]
  with multiprocessing.get_context('spawn').Pool(2) as pool:
    return pool.starmap_async(all_reduce, ranks).get(timeout=120)[0]


def all_reduce(rank, address, sent):
  """Figures of one of the two."""
  # The process that started this one has most of both GPUs' memory.
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  # Whose handler of SIGTERM would keep the pool from ending its processes.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(address, 2, rank, local_device_ids=[rank])
  mesh, split = jax.make_mesh((2,), ('processes',)), PartitionSpec('processes')
  x = jax.make_array_from_process_local_data(
    NamedSharding(mesh, split), np.ones((1, sent // 4), np.float32)
  )
  add = functools.partial(jax.lax.psum, axis_name='processes')
  run = jax.shard_map(add, mesh=mesh, in_specs=split, out_specs=PartitionSpec())
  program = protocol.Program(run, [x])
  np.testing.assert_array_equal(program().addressable_data(0), 2)
  times = protocol.timed(dict(sum=program), range(20))
  seconds = float(np.median(times['sum']))
  # Of two, each sends and receives as much as it has.
  return dict(ms=1e3 * seconds, gb_per_s=sent / seconds / 1e9)
