# SPDX-License-Identifier: Apache-2.0
"""What needs one device only; see test_devices for the rest."""

import jax
import numpy as np
import pytest

from collab.training import sharding


@pytest.mark.parametrize('fsdp', [0, -1, 3])
def test_fsdp_that_does_not_divide(fsdp):
  n = jax.device_count()
  with pytest.raises(ValueError, match=f'fsdp={fsdp} .* {n} devices; legal'):
    sharding.make_mesh(fsdp)


@pytest.mark.parametrize('tensor', [0, 3])
def test_tensor_that_does_not_divide(tensor):
  n = jax.local_device_count()
  expected = f'tensor={tensor} does not divide the {n} devices of a host; legal'
  with pytest.raises(ValueError, match=expected):
    sharding.make_mesh(tensor=tensor)


def test_axes_are_auto():
  mesh = sharding.make_mesh()
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
  'shape, spec',
  [
    ((64, 128), (None, 'fsdp')),
    ((128, 64), ('fsdp',)),
    ((66, 127), ('fsdp',)),  # the largest that 2 divides
    ((128, 128), ('fsdp',)),
    ((67, 127), ()),
    ((64, 63), ()),  # small
    ((), ()),
  ],
)
def test_largest_axis_that_divides_is_split(shape, spec):
  mesh = jax.sharding.AbstractMesh((1, 2, 1), sharding.AXES)
  leaf = jax.ShapeDtypeStruct(shape, np.float32)
  found = sharding.state_shardings(mesh, {'a': leaf})['a'].spec
  assert tuple(found) == spec
  replicated = jax.sharding.AbstractMesh((2, 1, 1), sharding.AXES)
  assert tuple(sharding.state_shardings(replicated, leaf).spec) == ()


def test_put_keeps_rows():
  split = sharding.batch_sharding(sharding.make_mesh())
  batch = dict(x=np.arange(6, dtype=np.int32).reshape(2, 3), w=np.ones(2))
  placed = sharding.put(batch, split)
  np.testing.assert_array_equal(placed['x'], batch['x'])
  assert placed['w'].dtype == np.float32


def test_put_refuses_leaves_of_different_length():
  split = sharding.batch_sharding(sharding.make_mesh())
  with pytest.raises(
    ValueError, match=r"'x': 'float64\[2\]', 'y': 'float64\[3\]'"
  ):
    sharding.put(dict(x=np.ones(2), y=np.ones(3)), split)
  with pytest.raises(ValueError, match=r"'x': 'float32\[\]'"):
    sharding.put(dict(x=np.float32(1)), split)
