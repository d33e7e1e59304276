# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite are named, counted, and go nowhere."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.training import nonfinite, optim

PARAMS = dict(
  decoder=dict(layer_0=dict(kernel=jnp.ones((2, 3))), scale=jnp.ones(5)),
  embed=jnp.ones((7, 2)),
)
NAMES = ['decoder/layer_0/kernel', 'decoder/scale', 'embed']


def health(loss=1.0, **values):
  """Of gradients that are 0 but for one element of some."""
  grads = jax.tree.map(jnp.zeros_like, PARAMS)
  for name, value in values.items():
    grads[name] = jax.tree.map(lambda x, v=value: x.at[0].set(v), grads[name])
  return jax.device_get(nonfinite.health(jnp.float32(loss), grads))


def watch(limit=0):
  return nonfinite.watch(limit, PARAMS, lambda step: np.arange(3) + step, 'DIR')


def test_norm():
  grads = jax.tree.map(lambda x: 2 * x, PARAMS)
  found = nonfinite.health(jnp.float32(1), grads)
  np.testing.assert_allclose(found.norm, 2 * np.sqrt(6 + 5 + 14), rtol=1e-6)
  np.testing.assert_array_equal(found.squares, np.float32([24, 20, 56]))


@pytest.mark.parametrize(
  'bad, words',
  [
    (health(np.nan), 'the loss is nan and the gradient has the norm 0.0'),
    (health(np.inf, embed=1), 'the loss is inf'),
    (health(embed=np.nan), 'loss is 1.0 .* norm nan, not finite in embed;'),
    (
      health(decoder=np.inf),
      f'norm inf, not finite in {", ".join(NAMES[:2])};',
    ),
    (health(decoder=np.nan, embed=np.nan), 'nan, not finite in all parts;'),
    (health(embed=1e30), 'norm inf, not finite in embed;'),  # its square
    (health(decoder=1e19, embed=1e19), 'inf, not finite in no part alone;'),
  ],
)
def test_first_that_is_not_finite_is_named(bad, words):
  check, good = watch(), health()
  check([good] * 4, 9, 0)
  with pytest.raises(FloatingPointError, match=words) as info:
    check([good, good, bad, good, bad], 9, 2)
  text = str(info.value)
  assert text.startswith('At step 7 ')
  assert 'the batch has the examples 6, 7, 8.' in text
  assert 'skip_nonfinite=0; the checkpoints in DIR' in text
  assert '\n' not in text


def test_layers_that_are_stacked_are_named_one_by_one():
  kernel = jnp.ones((11, 2, 3)).at[10, 0].set(np.nan)
  grads = dict(decoder={'layer_*': dict(kernel=kernel)}, embed=jnp.ones(4))
  found = jax.device_get(nonfinite.health(jnp.float32(1), grads))
  np.testing.assert_array_equal(found.squares[:10], np.full(10, 6.0))
  check = nonfinite.watch(0, grads, lambda step: np.arange(3), 'DIR')
  with pytest.raises(
    FloatingPointError, match='finite in decoder/layer_10/kernel;'
  ):
    check([found], 1, 1)


def test_up_to_the_limit_they_are_counted(caplog):
  caplog.set_level(logging.WARNING, 'absl')
  check, good, bad = watch(3), health(), health(np.nan)
  check([good, bad, good], 9, 2)
  assert caplog.messages[0].startswith('At step 8 ')
  assert caplog.messages[0].endswith('It is skipped, 2 of 3.')
  with pytest.raises(FloatingPointError, match=r'At step 12 .* one too many'):
    check([bad, good, bad], 12, 4)
  assert caplog.messages[1].endswith('It is skipped, 3 of 3.')


@pytest.mark.parametrize(
  'fields',
  [
    dict(name='adam'),
    dict(clip=1.0),
    dict(name='muon', clip=1.0, layer_decay=0.5),
  ],
)
def test_updates_are_counted_and_skipped(fields):
  tx, _ = optim.build(total_steps=9, **fields)
  old = dict(step=jnp.int32(7), params=PARAMS, opt=tx.init(PARAMS))

  def update(state, grads):
    updates, opt = tx.update(grads, state['opt'], state['params'])
    params = jax.tree.map(jnp.add, state['params'], updates)
    return state | dict(params=params, opt=opt)

  @jax.jit
  def step(state, factor):
    grads = jax.tree.map(lambda x: x * factor, state['params'])
    health = nonfinite.health(jnp.float32(1), grads)
    return nonfinite.update_if_finite(health, update, state, grads)

  assert optim.updates(old['opt']) == 0
  good, bad = step(old, 2.0), step(old, np.nan)
  assert good['step'] == bad['step'] == 8
  assert optim.updates(good['opt']) == 1
  assert not np.array_equal(good['params']['embed'], PARAMS['embed'])
  jax.tree.map(
    np.testing.assert_array_equal, bad, old | dict(step=jnp.int32(8))
  )
