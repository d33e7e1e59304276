# SPDX-License-Identifier: Apache-2.0
"""What the attention layers of a model get, and in which order."""

import jax
import numpy as np
import pytest

from collab import attention, models
from collab.convert import intercept
from tests.few import few
from tests.models import small

BATCH = dict(
  tokens=np.random.default_rng(0).integers(0, small.V, (2, 7)),
  types=np.zeros((2, 7), int),
  lengths=np.array([7, 4]),
)


def run(model, params, batch, wanted):
  """intercept.run, compiled."""
  go = jax.jit(lambda p: intercept.run(model, p, batch, wanted))
  out, seen = go(params)
  return out, {
    path: [intercept.Inputs(*call) for call in calls]
    for path, calls in seen.items()
  }


def mha(**more):
  fields = dict(attention=small.ATTENTION['mha'], dim=small.D, mlp_dim=11)
  fields |= dict(vocab_size=small.V, num_layers=2)
  return models.build('encoder', **fields | more)


def test_sees_what_a_layer_gets():
  """The first layer's output of its inputs is what the model has there."""
  model = mha(num_layers=1)
  params = small.parameters(model, BATCH)
  (path,) = intercept.paths(params)
  (x, pooled), seen = run(model, params, BATCH, wanted=[path])
  jax.tree.map(small.close, (x, pooled), small.apply(model, params, BATCH))
  (call,) = seen[path]
  np.testing.assert_array_equal(call.x, call.y)
  valid = np.arange(7)[None] < BATCH['lengths'][:, None]
  np.testing.assert_array_equal(call.x_valid, valid)
  np.testing.assert_array_equal(call.y_valid, valid)
  e, norm = params['embed']['embedding'], params['embed_norm']
  h = e[BATCH['tokens']] + params['positions']['embedding'][None, :7]
  h += params['types']['embedding'][0][None, None]
  h -= h.mean(-1, keepdims=True)
  h /= np.sqrt((h**2).mean(-1, keepdims=True) + 1e-12)
  want = h * norm['scale'][None, None] + norm['bias'][None, None]
  small.close(call.x, want)
  out = intercept.get(params, (*path, 'out'))
  o = np.einsum('bthv,hvd->btd', call.o, out['kernel'])
  small.close(call.out, o + out['bias'][None, None])
  alone = attention.build(**small.ATTENTION['mha'])
  tree = {'params': intercept.get(params, path)}
  small.close(call.out, alone.apply(tree, call.x, mask=call.mask))


def test_a_shared_layer_is_called_by_every_layer():
  model = mha(shared=True, num_layers=3)
  params = small.parameters(model, BATCH)
  (path,) = intercept.paths(params)
  _, seen = run(model, params, BATCH, wanted=[path])
  one, two, three = (call.x for call in seen[path])
  assert np.abs(one - two).max() > 0.1
  assert np.abs(two - three).max() > 1e-3


def test_cross_attention_gets_two_inputs_and_their_padding():
  model = models.build(
    'encoder_decoder',
    vocab_size=small.V,
    attention=small.ATTENTION['mha'],
    dim=small.D,
    encoder_layers=1,
    decoder_layers=1,
    mlp_dim=11,
  )
  batch = {}
  segments = dict(
    source=np.array([[1, 1, 2, 0, 0]]), target=np.array([[1, 2, 2, 0]])
  )
  for side, s in segments.items():
    name = 'target_inputs' if side == 'target' else side
    batch |= {name: s + 3, f'{side}_segments': s}
    batch[f'{side}_positions'] = np.arange(s.shape[1])[None]
  params = small.parameters(model, batch)
  paths = intercept.paths(params)
  assert paths == [
    ('encoder', 'layer_0', 'self_attention'),
    ('decoder', 'layer_0', 'self_attention'),
    ('decoder', 'layer_0', 'cross'),
  ]
  _, seen = run(model, params, batch, wanted=paths)
  for path, (x, y) in zip(
    paths,
    [('source', 'source'), ('target', 'target'), ('target', 'source')],
    strict=True,
  ):
    (call,) = seen[path]
    np.testing.assert_array_equal(call.x_valid, segments[x] > 0)
    np.testing.assert_array_equal(call.y_valid, segments[y] > 0)


def test_paths_are_in_the_order_of_calls():
  layer = dict(latent={}, out=dict(kernel=np.zeros((3, 2, 5))))
  block = dict(cross=layer, self_attention=layer, mlp_in={})
  stack = {f'layer_{i}': block for i in (10, 2, 0)}
  found = intercept.paths(dict(decoder=stack, encoder=stack, embed={}))
  want = [
    (side, f'layer_{i}', place)
    for side in ('encoder', 'decoder')
    for i in (0, 2, 10)
    for place in ('self_attention', 'cross')
  ]
  assert found == want


def test_put_leaves_the_old_tree():
  old = dict(a=dict(b=1, c=2))
  assert intercept.put(old, ('a', 'b'), 3) == dict(a=dict(b=3, c=2))
  assert intercept.get(old, ('a', 'b')) == 1


@few(
  [dict(scan=True), dict(remat='full'), {}], [dict(remat='full'), {}], 'more'
)
def test_refuses_what_is_not_called(more):
  model = mha(**more)
  params = small.parameters(model, BATCH)
  path = ('encoder', f'layer_{0 if more else 2}', 'self_attention')
  with pytest.raises(ValueError, match=f'No attention.*at {"/".join(path)};'):
    intercept.run(model, params, BATCH, wanted=[path])
