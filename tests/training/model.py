# SPDX-License-Identifier: Apache-2.0
"""A two-layer network and its training, for the tests of all devices.

  python -m tests.training.model WORKDIR [rest]

is the part of `test_devices` that needs several devices.
"""

import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from collab.attention import dropout
from collab.models import split
from collab.runtime import checkpoint, tree_table
from collab.training import gradients, optim, sharding

ROWS = 48  # of a batch; divides over 8 devices in 1, 2, 3 or 6 parts
STEPS = 7
HALF = 4  # where a run is saved to go on elsewhere


def init(key, width=128):
  k1, k2 = jax.random.split(key)
  return {
    'layer_0': {
      'kernel': jax.random.normal(k1, (37, width)) / 6,
      'bias': jnp.zeros(width),
    },
    'layer_1': {'kernel': jax.random.normal(k2, (width, 40)) / 11},
  }


def batch(step):
  """Rows of uneven weights."""
  rng = np.random.default_rng(step)
  x = rng.normal(size=(ROWS, 37)).astype(np.float32)
  return dict(
    x=x,
    y=np.sin(x[:, :1] * np.arange(40)).astype(np.float32),
    weight=rng.integers(0, 9, ROWS).astype(np.float32),
  )


def loss(params, batch, key, rate=0.1):
  """Weighted squared error, with dropout."""
  params = split.gather(params)
  h = batch['x'] @ params['layer_0']['kernel'] + params['layer_0']['bias'][None]
  h = jnp.tanh(h) * dropout.keep_rows(key, rate, h.shape) / (1 - rate)
  error = ((h @ params['layer_1']['kernel'] - batch['y']) ** 2).mean(-1)
  weight = batch['weight']
  return (error * weight).sum(), (weight.sum(), dict(rows=jnp.size(weight)))


def make(mesh, parts=1, width=128):
  """Initial state, jitted step and abstract state on a mesh."""
  tx, _ = optim.build(total_steps=STEPS, lr=0.01, warmup_steps=2, clip=1.0)

  def first():
    params = init(jax.random.key(0), width)
    return dict(step=jnp.int32(0), params=params, opt=tx.init(params))

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(1), state['step'])
    params = state['params']
    (value, _), grads = value_and_grad(params, batch, key)
    updates, opt = tx.update(grads, state['opt'], params)
    params = jax.tree.map(jnp.add, params, updates)
    return dict(step=state['step'] + 1, params=params, opt=opt), value

  shapes = jax.eval_shape(first)
  shardings = sharding.state_shardings(mesh, shapes)
  specs = jax.tree.map(lambda x: x.spec, shardings['params'])
  value_and_grad = gradients.accumulate(loss, mesh, specs, parts)
  state = jax.jit(first, out_shardings=shardings)()
  step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
  return state, step, abstract(shapes, shardings)


def abstract(tree, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def curve(mesh, parts=1):
  """Losses, last state, its abstract form, and kinds of communication."""
  state, step, shapes = make(mesh, parts)
  rows = sharding.batch_sharding(mesh)
  step = step.lower(state, sharding.put(batch(0), rows)).compile()
  kinds = re.findall(r' (all-[a-z]+|collective-[a-z]+)\(', step.as_text())
  losses = []
  for i in range(STEPS):
    state, value = step(state, sharding.put(batch(i), rows))
    losses.append(float(value))
  return losses, state, shapes, sorted(set(kinds))


def save_half(mesh, workdir):
  """Trains to HALF and saves; returns checksums of the state."""
  state, step, _ = make(mesh)
  rows = sharding.batch_sharding(mesh)
  for i in range(HALF):
    state, _ = step(state, sharding.put(batch(i), rows))
  checkpoints = checkpoint.Checkpoints(workdir, keep=1)
  checkpoints.save(HALF, state)
  checkpoints.close()
  return tree_table.checksums(state)


def go_on(workdir, mesh, parts):
  """Restores and trains to STEPS: step and checksums as restored, losses."""
  _, step, shapes = make(mesh, parts)
  rows, losses = sharding.batch_sharding(mesh), []
  checkpoints = checkpoint.Checkpoints(workdir, keep=1)
  first, state = checkpoints.restore(shapes)
  checkpoints.close()
  sums = tree_table.checksums(state)
  for i in range(first, STEPS):
    state, value = step(state, sharding.put(batch(i), rows))
    losses.append(float(value))
  return first, sums, losses


def many(fsdp):
  """More leaves than XLA's CPU client starts programs at once: 32."""
  shape = (64, sharding.SMALL // 64)
  tree = {str(i): np.full(shape, i, np.float32) for i in range(97)}
  places = sharding.state_shardings(sharding.make_mesh(fsdp), tree)
  return jax.device_put(tree, places)


def refused(workdir, mesh):
  """What is said of a checkpoint of another width."""
  *_, shapes = make(mesh, width=120)
  checkpoints = checkpoint.Checkpoints(workdir, keep=1)
  try:
    checkpoints.restore(shapes)
  except ValueError as e:
    return str(e)
  finally:
    checkpoints.close()


def rest(workdir):
  """`go_on` and `refused` on these devices, of what eight have saved."""
  found, n = {}, jax.device_count()
  for saved in (1, 8):
    folder = pathlib.Path(workdir) / f'half {saved}'
    for fsdp in (k for k in (1, 2, 8) if n % k == 0):
      mesh = sharding.make_mesh(fsdp)
      for parts in (1, 3):
        name = f'{saved} to {fsdp} in {parts}'
        found[name] = go_on(folder, mesh, parts)
    found[f'{saved} refused'] = refused(folder, mesh)
  return found


def main(workdir):
  workdir = pathlib.Path(workdir)
  result = dict(devices=jax.device_count(), curves={}, kinds={})
  for fsdp in (1, 2, 8):
    mesh = sharding.make_mesh(fsdp)
    losses, state, shapes, kinds = curve(mesh)
    result['curves'][f'fsdp={fsdp}'] = losses
    result['kinds'][f'fsdp={fsdp}'] = kinds
    kernel = state['params']['layer_0']['kernel']
    result[f'part of fsdp={fsdp}'] = list(
      kernel.addressable_shards[0].data.shape
    )
    # What one device has saved comes back on eight, however split.
    checkpoints = checkpoint.Checkpoints(workdir / 'one', keep=1)
    step, restored = checkpoints.restore(shapes)
    checkpoints.close()
    result[f'restored fsdp={fsdp}'] = [step, tree_table.checksums(restored)]
    placed = jax.tree.map(
      lambda x, a: x.sharding == a.sharding, restored, shapes
    )
    assert all(jax.tree.leaves(placed))
  losses, _, _, kinds = curve(sharding.make_mesh(), parts=2)
  result['curves']['2 parts'], result['kinds']['2 parts'] = losses, kinds
  checkpoints = checkpoint.Checkpoints(workdir / 'eight', keep=1)
  checkpoints.save(STEPS, state)
  checkpoints.close()
  result['saved'] = tree_table.checksums(state)
  try:
    nine = jax.tree.map(lambda x: x[:9], batch(0))
    sharding.put(nine, sharding.batch_sharding(mesh))
  except ValueError as e:
    result['error'] = str(e)
  result['many'] = tree_table.checksums(many(fsdp=8))
  result['half'] = {
    n: save_half(sharding.make_mesh(n), workdir / f'half {n}') for n in (1, 8)
  }
  print(json.dumps(result))


if __name__ == '__main__':
  if sys.argv[2:] == ['rest']:
    print(json.dumps(rest(sys.argv[1])))
  else:
    main(sys.argv[1])
