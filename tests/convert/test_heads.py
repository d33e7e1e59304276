# SPDX-License-Identifier: Apache-2.0
"""Masks of heads against layers that lack them; what heads are worth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention, models
from collab.convert import heads, intercept
from tests.models import small

RNG = np.random.default_rng(0)
LENGTHS = np.array([7, 3])
BATCH = dict(
  tokens=RNG.integers(0, small.V, (2, 7)),
  types=np.zeros((2, 7), int),
  lengths=LENGTHS,
)
FIRST = ('encoder', 'layer_0', 'self_attention')


def encoder(variant='mha', **more):
  fields = dict(
    vocab_size=small.V,
    attention=small.ATTENTION[variant],
    dim=small.D,
    num_layers=2,
    mlp_dim=11,
  )
  model = models.build('encoder', **fields | more)
  return model, small.parameters(model, BATCH)


def all_but(params, path, h):
  """Masks that leave a head out."""
  masks = heads.ones(params)
  masks[path][h] = 0
  return masks


@pytest.mark.parametrize('variant', attention.names())
def test_a_layer_is_the_sum_of_its_heads(variant):
  """Of every variant: one head each by masks, and the output's bias once."""
  layer = attention.build(**small.ATTENTION[variant])
  x = jnp.asarray(RNG.normal(size=(2, 5, small.D)), jnp.float32)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  params = jax.tree.map(
    lambda s: jnp.asarray(RNG.normal(size=s.shape), jnp.float32), shapes
  )
  run = jax.jit(
    lambda p, mask: layer.apply({'params': heads.mask_heads(p, {(): mask})}, x)
  )
  bias = run(params, np.zeros(small.H))
  parts = [run(params, row) - bias for row in np.eye(small.H)]
  assert min(np.abs(part).max() for part in parts) > 1e-2
  small.close(sum(parts) + bias, run(params, np.ones(small.H)))
  small.close(bias, np.broadcast_to(params['out']['bias'], x.shape))


@pytest.mark.parametrize('more', [dict(shared=True), dict(norm='pre')])
def test_a_masked_head_is_one_without_values(more):
  """In every call of a shared layer; what residuals carry stays."""
  model, params = encoder(**more)
  layer = intercept.get(params, FIRST)
  value = {name: w.at[..., 1, :].set(0) for name, w in layer['value'].items()}
  other = intercept.put(params, (*FIRST, 'value'), value)
  want, _ = small.apply(model, other, BATCH)
  masked = heads.mask_heads(params, all_but(params, FIRST, 1))
  got, _ = small.apply(model, masked, BATCH)
  small.close(got, want)
  whole, _ = small.apply(model, params, BATCH)
  assert np.abs(got - whole).max() > 1e-2


def test_masks_leave_the_parameters():
  _, params = encoder()
  params = jax.tree.map(np.asarray, params)
  kept = jax.tree.map(np.copy, params)
  new = heads.mask_heads(params, {FIRST: np.array([1, 0.5, 0, 2])})
  jax.tree.map(np.testing.assert_array_equal, params, kept)
  old, new = (intercept.get(p, FIRST)['out']['kernel'] for p in (params, new))
  assert new.dtype == np.float32
  np.testing.assert_array_equal(new[1], old[1] / 2)
  assert not new[2].any()


def test_ones_are_in_the_order_of_calls():
  layer = {'out': dict(kernel=np.zeros((3, 2, 5))), 'latent': {}}
  stack = {
    f'layer_{i}': dict(cross=layer, self_attention=layer) for i in (10, 2)
  }
  found = heads.ones(dict(decoder=stack, encoder=stack))
  assert [*found] == [
    (side, f'layer_{i}', place)
    for side in ('encoder', 'decoder')
    for i in (2, 10)
    for place in ('self_attention', 'cross')
  ]
  assert {x.shape for x in found.values()} == {(3,)}


def test_refuses_heads_of_several_widths():
  model, params = encoder()
  out = {'kernel': np.zeros((5, small.D))}
  params = intercept.put(params, (*FIRST, 'out'), out)
  with pytest.raises(
    ValueError, match=r'layer_0.self_attention has heads of s'
  ):
    heads.ones(params)


def test_refuses_masks():
  _, params = encoder(num_layers=1)
  name = '/'.join(FIRST)
  with pytest.raises(ValueError, match=f'of encoder has .* layers have {name}'):
    heads.mask_heads(params, {('encoder',): np.ones(small.H)})
  with pytest.raises(ValueError, match=rf'{name} has shape \(3,\); .* \(4,\)'):
    heads.mask_heads(params, {FIRST: np.ones(3)})
  with pytest.raises(ValueError, match=r'No attention layer in .*: embed'):
    heads.ones(dict(embed=dict(embedding=np.ones(3))))


def loss(model, params, batch):
  x, valid = heads.hidden(model, params, batch)
  return jnp.where(valid[..., None], x**3, 0).mean()


def test_importance_is_the_slope_of_the_loss():
  """Of the loss as it is and, by a difference, as a mask moves it."""
  model, params = encoder(shared=True)
  run = jax.jit(functools.partial(loss, model))
  other = BATCH | dict(tokens=BATCH['tokens'][::-1])
  slope = jax.jit(jax.grad(run))
  slopes = [slope(params, batch) for batch in (BATCH, other)]
  got = heads.importance(run, params, [BATCH, other])
  assert [*got] == [FIRST]
  w, *g = (
    np.asarray(intercept.get(p, FIRST)['out']['kernel'], 'f8')
    for p in (params, *slopes)
  )
  want = np.mean([np.abs((w * x).sum((1, 2))) for x in g], 0)
  np.testing.assert_allclose(got[FIRST], want, rtol=1e-4, atol=1e-6)
  masks = [heads.ones(params) for _ in range(2)]
  for mask, step in zip(masks, (1e-2, -1e-2), strict=True):
    mask[FIRST][2] += step
  up, down = (
    float(run(heads.mask_heads(params, mask), BATCH)) for mask in masks
  )
  one = abs((w * g[0])[2].sum())
  np.testing.assert_allclose(one, abs(up - down) / 2e-2, rtol=2e-2)


def test_ablation_is_what_changes():
  """Against one head at a time, in NumPy, on tokens that are no padding."""
  model, params = encoder()
  dead = intercept.get(params, FIRST)['out']['kernel'].at[3].set(0)
  params = intercept.put(params, (*FIRST, 'out', 'kernel'), dead)
  outputs = functools.partial(heads.hidden, model)
  got = heads.ablation(outputs, params, [BATCH])

  def real(params):
    x, _ = small.apply(model, params, BATCH)
    rows = zip(np.asarray(x, 'f8'), LENGTHS, strict=True)
    return np.concatenate([row[:n] for row, n in rows])

  x = real(params)
  for path, found in got.items():
    changes = [
      real(heads.mask_heads(params, all_but(params, path, h))) - x
      for h in range(small.H)
    ]
    want = [(c**2).mean(0).sum() / x.var(0).sum() for c in changes]
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-9)
  assert got[FIRST][3] == 0
  assert got[FIRST][0] > 1e-3


def test_ablation_adds_batches_up_and_ignores_padding():
  model, params = encoder(num_layers=1)
  outputs = functools.partial(heads.hidden, model)
  whole = heads.ablation(outputs, params, [BATCH])
  rows = [{k: v[i : i + 1] for k, v in BATCH.items()} for i in range(2)]
  rows[1] |= dict(tokens=np.where(np.arange(7) < 3, rows[1]['tokens'], 5))
  parts = heads.ablation(outputs, params, rows)
  np.testing.assert_allclose(parts[FIRST], whole[FIRST], rtol=1e-4)


def test_hidden_states_of_a_pair_are_the_decoders():
  model = models.build(
    'encoder_decoder',
    vocab_size=small.V,
    attention=small.ATTENTION['gqa'],
    dim=small.D,
    encoder_layers=1,
    decoder_layers=1,
    mlp_dim=11,
  )
  segments = dict(
    source=np.array([[1, 1, 2, 0, 0]]), target=np.array([[1, 2, 2, 0]])
  )
  batch = {}
  for side, s in segments.items():
    name = 'target_inputs' if side == 'target' else side
    batch |= {name: s + 3, f'{side}_segments': s}
    batch[f'{side}_positions'] = np.arange(s.shape[1])[None]
  params = small.parameters(model, batch)
  x, valid = jax.jit(functools.partial(heads.hidden, model))(params, batch)
  want = small.apply(model, params, batch, method='features')
  small.close(x, want)
  np.testing.assert_array_equal(valid, segments['target'] > 0)


def test_refuses_batches():
  model, params = encoder(num_layers=1)
  outputs = functools.partial(heads.hidden, model)
  with pytest.raises(ValueError, match=r'^No tokens to leave heads out on'):
    heads.ablation(outputs, params, [])
  with pytest.raises(
    ValueError, match=r'^No tokens .*: no batches, or padding'
  ):
    heads.ablation(outputs, params, [BATCH | dict(lengths=np.zeros(2, int))])
  with pytest.raises(ValueError, match='all the same, or not finite'):
    heads.ablation(
      outputs, jax.tree.map(lambda x: x * np.float32('nan'), params), [BATCH]
    )
  with pytest.raises(ValueError, match=r'^There are no batches'):
    heads.importance(loss, params, [])
