# SPDX-License-Identifier: Apache-2.0
"""The cases of benchmarks.accelerator on values, checkpoints and two processes.

Axes: B batch, T tokens, D model, H heads.
"""

import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import jax
from jax import ShapeDtypeStruct as Shape
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.accelerator_cases import BF16, KEY, Case, Program, drawn, noise
from benchmarks.accelerator_speed import variants
from benchmarks.attention import LAYERS
from collab import attention
from collab.runtime import checkpoint_io, tree_table

# Whether a kernel is right does not depend on the tiles of the products.
NO_AUTOTUNING = dict(xla_gpu_autotune_level=0)


# Values -----------------------------------------------------------------------


def values(size):
  """Errors of values and gradients, of every variant and forced kernel."""
  return [
    _values(size, mask, dtype)
    for mask in size.masks
    for dtype in (jnp.float32, BF16)
  ]


def _values(size, mask, dtype):
  every = (
    variants(size) if dtype == BF16 else {x: LAYERS[x] for x in size.variants}
  )
  cases = {name: (fields, False) for name, fields in every.items()}
  if dtype == BF16:
    cases['mha, plain'] = LAYERS['mha'], True
  B, T, D, H = size.checked
  return [
    Case(
      'values',
      f'{jnp.dtype(dtype).name}, {mask}, B={B}, T={T}, D={D}, H={H}',
      name,
      functools.partial(_value, size.checked, mask, dtype, fields, plain),
    )
    for name, (fields, plain) in cases.items()
  ]


def _value(shape, mask, dtype, fields, plain):
  B, T, D, H = shape
  layer = attention.build(num_heads=H, dtype=dtype, **fields)
  x = Shape((B, T, D), dtype)
  params = jax.eval_shape(layer.init, KEY, x)['params']

  def run(params, x, cotangent):
    with precise(dtype):
      return (passes(layer, mask, plain, params, x, cotangent),)

  on_gpu = jax.default_backend() == 'gpu'
  options = NO_AUTOTUNING if on_gpu else None
  program = Program(run, params, x, x, options=options)

  def finish(results):
    inputs = _inputs(params, B, T, D)
    cast = lambda x, like: x.astype(like.dtype)
    cast = jax.tree.map(cast, inputs, (params, x, x))
    program.arguments = list(jax.device_put(cast))
    value, gradient = program()
    plain_fields = {k: v for k, v in fields.items() if k != 'implementation'}
    right, slope = reference(mask, H, tuple(plain_fields.items()), inputs)
    return dict(
      value_error=error(value, right),
      gradient_error=error(gradient, slope),
      compile_s=program.compile_s,
    )

  return finish


def precise(dtype):
  """float32 products in float32: an accelerator's default has fewer bits."""
  if dtype == jnp.float32:
    return jax.default_matmul_precision('highest')
  return contextlib.nullcontext()


def passes(layer, kind, plain, params, x, cotangent):
  """Value and gradients; where weights are sown, by the plain formula."""
  how = dict(sow_weights=True, mutable='intermediates') if plain else {}

  def forward(params, x):
    mask = masks(kind, *x.shape[:2])
    y = layer.apply({'params': params}, x, mask=mask, **how)
    return y[0] if plain else y

  value, pull = jax.vjp(forward, params, x)
  return value, pull(cotangent)


def masks(kind, B, T):
  """The mask of a kind; 'packed' is causal, with three sequences a row."""
  if kind == 'none':
    return None
  if kind == 'causal':
    return attention.Mask(causal=True)
  if kind == 'padded':
    lengths = T - T // 3 * (np.arange(B) % 2)
    return attention.Mask(key_valid=jnp.arange(T) < lengths[:, None])
  segments = np.searchsorted([T // 5, T // 2], np.arange(T), side='right')
  return attention.Mask(
    causal=True, q_segments=jnp.asarray(np.tile(segments, (B, 1)))
  )


def _inputs(params, B, T, D):
  """Parameters, input and cotangent; those two fit bfloat16."""
  scale = D**-0.5
  x, cotangent = drawn([Shape((B, T, D), BF16)] * 2)
  return drawn(params, scale), x, cotangent


def reference(mask, H, fields, inputs):
  """Value and gradients by the plain formula in float64, on the CPU."""
  cpu = jax.devices('cpu')[0]
  with jax.enable_x64(True), jax.default_device(cpu):
    kinds = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    layer = attention.build(num_heads=H, **kinds, **dict(fields))
    inputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), inputs)
    return jax.device_get(passes(layer, mask, True, *inputs))


def error(found, right):
  """The largest error of a leaf, as a share of its norm.

  Of leaves below a tenth of the largest norm, as a share of that: some are
  zero but for rounding, as the gradient of a key's bias.
  """
  pairs = [
    (np.asarray(x, np.float64), y)
    for x, y in zip(*map(jax.tree.leaves, (found, right)), strict=True)
  ]
  norms = [np.linalg.norm(y) for _, y in pairs]
  least = max(norms) / 10
  errors = [
    np.linalg.norm(x - y) / max(norm, least)
    for (x, y), norm in zip(pairs, norms, strict=True)
  ]
  if not np.isfinite(errors).all():
    raise FloatingPointError('not finite')
  return float(max(errors))


# Checkpoints ------------------------------------------------------------------


def checkpoint(size):
  """A state through the checkpoints of train.py."""
  name = f'{size.state:,} parameters'
  return [[Case('checkpoint', 'seconds', name, lambda: _checkpoint(size))]]


def _checkpoint(size, leaves=20):
  leaf = Shape((size.state // leaves,), jnp.float32)

  def finish(results):
    params = noise({f'leaf_{i}': leaf for i in range(leaves)})
    state = jax.block_until_ready(dict(params=params, step=jnp.int32(1)))
    checkpoint_io.silence_orbax()
    found = {}

    @contextlib.contextmanager
    def clock(name):
      start = time.perf_counter()
      yield
      found[name] = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
      manager = ocp.CheckpointManager(
        pathlib.Path(folder).absolute() / 'checkpoints',
        item_handlers=checkpoint_io.handlers(),
      )
      with clock('save_s'):
        with clock('save_returns_s'):
          checkpoint_io.save(manager, 1, state, {})
        manager.wait_until_finished()
      with clock('checksums_s'):
        tree_table.checksums(state)
      like = lambda x: Shape(x.shape, x.dtype, sharding=x.sharding)
      with clock('restore_s'):
        back = checkpoint_io.restore(manager, 1, jax.tree.map(like, state))
        jax.block_until_ready(back)
      manager.close()
    megabytes = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    return found | dict(
      save_mb_per_s=megabytes / found['save_s'],
      restore_mb_per_s=megabytes / found['restore_s'],
    )

  return finish


# Two processes ----------------------------------------------------------------


def nccl(size):
  """An all-reduce between two processes of one GPU each."""
  return [[Case('nccl', 'two processes', 'all-reduce', lambda: _nccl(size))]]


def _nccl(size):
  two = jax.default_backend() == 'gpu' and jax.local_device_count() > 1
  if not two:
    return lambda results: dict(skipped='needs two GPUs')
  return lambda results: all_reduce(size.sent)


def all_reduce(sent):
  """Figures of an all-reduce of so many bytes, by two processes."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  # This process has most of both GPUs' memory.
  env = os.environ | dict(XLA_PYTHON_CLIENT_PREALLOCATE='false')
  words = [sys.executable, '-m', 'benchmarks.accelerator_pair']
  pair = [
    subprocess.Popen(
      [*words, str(rank), str(port), str(sent)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  try:
    (out, err), _ = [process.communicate(timeout=120) for process in pair]
  finally:
    for process in pair:
      process.kill()
  if pair[0].returncode:
    raise RuntimeError(err.strip().rpartition('\n')[2])
  return json.loads(out.splitlines()[-1])
