# SPDX-License-Identifier: Apache-2.0
"""Inputs sharded over Explicit mesh axes, the default of jax.make_mesh.

Shardings are then part of the types, so that most of this needs no devices.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
import pytest

from collab import attention
from collab.attention import kernels
from tests.attention import variants as V
from tests.few import few
from tests.training.test_devices import on_devices

MESH = AbstractMesh((2, 2), ('data', 'model'), (AxisType.Explicit,) * 2)
LAYOUTS = {
  'batch': PartitionSpec('data', None, None),
  'batch over both': PartitionSpec(('data', 'model'), None, None),
  'length': PartitionSpec(None, 'model', None),
  'batch and length': PartitionSpec('data', 'model', None),
}
every_case = few(V.CASES, V.QUICK)
every_layout = pytest.mark.parametrize('layout', LAYOUTS)


def typed(layout, *shape, dtype='float32'):
  spec = PartitionSpec(*LAYOUTS[layout][: len(shape)])
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, spec))


def run(case, call=None, **fields):
  """(params, x, valid) -> gradients and output; and the structures of both."""
  layer, D = V.build(case, **fields), V.width(case)
  init = lambda key: layer.init(key, jnp.zeros((4, 12, D)), dropout_rng=key)

  def gradients(params, x, valid):
    def loss(params, x):
      mask = attention.Mask(causal=True, key_valid=valid)
      o = layer.apply(params, x, mask=mask, **call or {})
      return (jax.tree.leaves(o)[0] ** 2).sum(), o

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  return gradients, init, (4, 12, D)


def is_whole(x):
  """On every device; the gradient of what is not used has no mesh."""
  return x.sharding is None or not any(x.sharding.spec)


@every_case
@every_layout
def test_results_are_sharded_as_the_inputs(case, layout):
  gradients, init, shape = run(case)
  params = jax.eval_shape(init, jax.random.key(0))
  x, valid = typed(layout, *shape), typed(layout, *shape[:2], dtype=bool)
  with jax.sharding.use_abstract_mesh(MESH):
    (dparams, dx), o = jax.eval_shape(gradients, params, x, valid)
  assert o.sharding.spec == dx.sharding.spec == LAYOUTS[layout]
  assert all(map(is_whole, jax.tree.leaves(dparams)))


@every_case
def test_sown_weights_and_dropout(case):
  """The other kernel, and dropout in either."""
  key = jax.random.key(1)
  rates = dict(dropout_rate=0.3, deterministic=False)
  for sow in (False, True):
    call = dict(dropout_rng=key)
    if sow:
      call |= dict(sow_weights=True, mutable=['intermediates'])
    gradients, init, shape = run(case, call, broadcast_dropout=not sow, **rates)
    params = jax.eval_shape(init, key)
    x, valid = typed('batch', *shape), typed('batch', *shape[:2], dtype=bool)
    with jax.sharding.use_abstract_mesh(MESH):
      (_, dx), o = jax.eval_shape(gradients, params, x, valid)
    assert {x.sharding.spec[0] for x in jax.tree.leaves((dx, o))} == {'data'}


@pytest.mark.parametrize(
  'split, other', [('q', 'v'), ('v', 'q'), ('key_bias', 'q')]
)
def test_heads_stay_sharded_as_they_come(split, other):
  """Of whatever has heads to share; the batch as whoever has it sharded."""

  def make(name, *shape):
    spec = [None] * len(shape)
    if name == split:
      spec[2] = 'model'
    if name == other:
      spec[0] = 'data'
    sharding = NamedSharding(MESH, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, 'float32', sharding=sharding)

  q, k = make('q', 4, 12, 4, 6), make('k', 4, 8, 1, 6)
  v, key_bias = make('v', 4, 8, 2, 10), make('key_bias', 4, 8, 4)

  def loss(*args):
    o, _ = kernels.attend(*args, None, 4)
    return (o**2).sum(), o

  run = jax.grad(loss, (0, 1, 2, 3), has_aux=True)
  with jax.sharding.use_abstract_mesh(MESH):
    grads, o = jax.eval_shape(run, q, k, v, key_bias)
  assert o.sharding.spec == PartitionSpec('data', None, 'model', None)
  for x, d in zip((q, k, v, key_bias), grads, strict=True):
    assert d.sharding.spec == x.sharding.spec


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mqa', 'mhe_add'])  # a kernel each
def test_four_devices_compute_what_one_does(name):
  found = on_devices(4, name, module='tests.attention.explicit_on_devices')
  assert found.pop('apart') < 1e-5
  assert found == dict(devices=4, eager=True, jit=True)
