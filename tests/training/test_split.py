# SPDX-License-Identifier: Apache-2.0
"""A state that is split: the same training, gathered a layer at a time."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
import numpy as np
import pytest

from benchmarks import fsdp
from collab import models
from collab.models import split, stack
from collab.training import gradients, sharding
from tests.training.test_devices import on_devices

# Auto, as of sharding.make_mesh; by default the axes are Explicit in JAX 0.12.
MESH = AbstractMesh((1, 2, 1), sharding.AXES, (AxisType.Auto,) * 3)


# The quick ones are those of test_devices and test_tensor.
@pytest.mark.slow
@pytest.mark.parametrize('variant', ['mha', 'mhe_add'])
def test_the_same_losses_on_any_mesh(variant):
  """With dropout, in two micro-batches; parts travel in bfloat16."""
  found = on_devices(8, variant, module='tests.training.split_on_devices')
  want = found['curves'].pop('data')
  for losses in found['curves'].values():
    np.testing.assert_allclose(losses, want, rtol=1e-5)
  for platform in ('tpu', 'cuda'):
    assert set(found['gathered'][platform]) == {'bf16'}


@pytest.mark.slow
def test_one_layer_is_whole_at_a_time():
  """Gradients, a layer and its gradient: no copy of the state or its parts.

  Six parameters are gathered in each loop's body, and the table at its ends.
  """
  found = fsdp.measured('scan')
  assert found['temporary'] < 0.3
  assert (found['gathered'], found['scattered']) == (2 * 6 + 2, 6 + 2)


@pytest.mark.parametrize('remat', stack.REMAT)
def test_blocks_gather_again_for_the_backward_pass(remat):
  """So that no layer stays whole; what is outside of blocks is kept."""
  model = models.build(
    'decoder',
    vocab_size=64,
    dim=64,
    num_layers=2,
    mlp_dim=64,
    attention=dict(name='mha', num_heads=2),
    remat=remat,
  )
  params = models.shapes(model)
  shardings = sharding.state_shardings(MESH, params)
  specs = jax.tree.map(lambda x: x.spec, shardings)
  parts = jax.tree_util.tree_leaves_with_path(specs)
  parts = [path for path, spec in parts if split.AXIS in spec]
  of_blocks = [x for x in parts if 'layer_' in jax.tree_util.keystr(x)]

  def loss(params, batch, key):
    params = split.gather_outside(params, model)
    out = model.apply({'params': params}, batch)
    return out.sum(), (jnp.float32(1), {})

  batch = dict(tokens=jax.ShapeDtypeStruct((2, 7), jnp.int32))
  run = gradients.accumulate(loss, MESH, specs)
  text = str(jax.make_jaxpr(run)(params, batch, jax.random.key(0)))
  assert 0 < len(of_blocks) < len(parts)
  assert text.count('= all_gather[') == len(parts) + len(of_blocks)


def test_a_module_called_layer_0_is_gathered_outside_of_a_stack():
  """Only a Stack gathers its own; the model says where it has attentions."""
  model = models.build(
    'decoder', vocab_size=8, dim=4, attention=dict(name='mha', num_heads=2)
  )
  part = split.Split(jnp.ones((4, 3)), -2)
  layers = dict(layer_0=dict(kernel=part))
  gathered = []

  def run():
    tree = split.gather_outside(dict(decoder=layers, mine=layers), model)
    gathered.append(jax.tree.map(lambda x: x.shape, tree))
    return 0

  spec = PartitionSpec()
  jax.eval_shape(
    jax.shard_map(run, mesh=MESH, in_specs=(), out_specs=spec, check_vma=False)
  )
  kernels = [x['layer_0']['kernel'] for x in gathered[0].values()]
  assert kernels == [split.Split((4, 3), -2), (8, 3)]


def test_boxes_open_again():
  params = dict(
    embed=np.ones((8, 3)), stack=dict(layer_0=dict(kernel=np.ones((3, 8))))
  )
  specs = dict(
    embed=PartitionSpec('fsdp'),
    stack=dict(layer_0=dict(kernel=PartitionSpec(None, 'fsdp'))),
  )
  boxed = split.boxed(params, specs)
  assert boxed['stack']['layer_0']['kernel'].axis == -1
  assert split.any_split(boxed)
  assert not split.any_split(split.unboxed(boxed))
  assert jax.tree.structure(split.unboxed(boxed)) == jax.tree.structure(params)
