# SPDX-License-Identifier: Apache-2.0
"""Schedules against closed forms, decay, clipping, accumulation."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from collab import models
from collab.models import parameters, stacked
from collab.runtime import tree_table
from collab.training import gradients, optim, schedules, sharding
from tests.few import few
from tests.models import small
from tests.training import model

LR, WARMUP, TOTAL, END = 0.3, 7, 31, 0.05


def schedule(name, step):
  """Learning rate of the step-th update, from 1, in plain Python."""
  if name == 'inverse_sqrt':
    return LR * min(step / WARMUP, math.sqrt(WARMUP / step))
  if step <= WARMUP:
    return LR * step / WARMUP
  p = min(1, (step - WARMUP) / (TOTAL - WARMUP))
  return {
    'constant': LR,
    'linear': LR + (END - LR) * p,
    'cosine': END + (LR - END) * (1 + math.cos(math.pi * p)) / 2,
    'wsd': LR + (END - LR) * min(1, max(0, step / TOTAL - 0.8) / 0.2),
  }[name]


@pytest.mark.parametrize('name', schedules.SCHEDULES)
def test_schedule(name):
  end = dict(end_lr=END) if name in schedules.ENDS else {}
  _, rate = optim.build(
    total_steps=TOTAL, lr=LR, schedule=name, warmup_steps=WARMUP, **end
  )
  for step in (1, 2, WARMUP - 1, WARMUP, WARMUP + 1, 20, 27, TOTAL, 36):
    np.testing.assert_allclose(rate(step - 1), schedule(name, step), rtol=2e-6)
    np.testing.assert_allclose(rate(jnp.int32(step - 1)), rate(step - 1))


def test_noam_of_the_paper():
  """D^(-1/2) min(step^(-1/2), step warmup^(-3/2)), Vaswani et al., eq. 3."""
  _, rate = optim.build(
    total_steps=10**5,
    lr=(512 * 4000) ** -0.5,
    schedule='inverse_sqrt',
    warmup_steps=4000,
  )
  for step in (1, 4000, 100_000):
    paper = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
    np.testing.assert_allclose(rate(step - 1), paper, rtol=1e-6)


def test_the_stable_rate_does_not_depend_on_the_total():
  """So that a run whose rate has not begun to fall may get more steps."""
  common = dict(lr=LR, schedule='wsd', warmup_steps=WARMUP)
  rates = [
    optim.build(total_steps=n, **common)[1](np.arange(23)) for n in (30, 99)
  ]
  np.testing.assert_array_equal(*rates)


def test_without_warmup_the_first_rate_is_the_peak():
  _, rate = optim.build(total_steps=5, lr=LR, schedule='constant')
  assert rate(0) == rate(4) == np.float32(LR)


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_first_update_is_adams(name):
  """-lr (g / (|g| + eps) + decay p): both moments are exact after one step."""
  decay = 0.1 if name == 'adamw' else 0.0
  tx, _ = optim.build(
    total_steps=5, name=name, lr=LR, schedule='constant', eps=0.5,
    weight_decay=decay,
  )  # fmt: skip
  params = dict(kernel=jnp.full((2, 3), 2.0), bias=jnp.full((2, 3), 2.0))
  grads = jax.tree.map(lambda p: p + 1, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  step = 3 / 3.5
  np.testing.assert_allclose(
    updates['kernel'], np.full((2, 3), -LR * (step + decay * 2)), rtol=1e-5
  )
  np.testing.assert_allclose(
    updates['bias'], np.full((2, 3), -LR * step), rtol=1e-5
  )


def test_muon_turns_by_matrices_and_leaves_the_rest_to_adam():
  """Kernels of layers move by lr 0.2 sqrt(max(m, n)) U V^T, about."""
  D, H, K = 12, 3, 4
  shapes = {
    'embed': {'embedding': (7, D)},
    'layer_0': {
      'query': {'kernel': (D, H, K), 'bias': (H, K)},
      'out': {'kernel': (H, K, D), 'bias': (D,)},
      'mlp_in': {'kernel': (D, 4 * D)},
      'mixing': (H, D),
    },
  }
  rng = np.random.default_rng(0)
  draw = lambda _: jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  params, grads = draw(0), draw(1)
  common = dict(total_steps=TOTAL, lr=LR, schedule='constant')
  adam = optax.nadam(LR, 0.9, 0.999)
  muon, _ = optim.build(name='muon', **common)
  new = dict(muon=muon, adam=adam)
  for name, tx in new.items():
    new[name], _ = tx.update(grads, tx.init(params), params)
  for path, rows in (('query', D), ('out', H * K), ('mlp_in', D)):
    update = new['muon']['layer_0'][path]['kernel'].reshape(rows, -1)
    values = np.linalg.svd(update, compute_uv=False)
    values /= LR * 0.2 * max(update.shape) ** 0.5
    assert values.min() > 0.6
    assert values.max() < 1.3
  for name, update in tree_table.named(new['muon']).items():
    same = np.allclose(update, tree_table.named(new['adam'])[name], rtol=1e-4)
    assert same == (not name.endswith('kernel')), name


def test_decay_mask():
  params = {
    'embedding': jnp.zeros((5, 3)),
    'query': dict(kernel=jnp.zeros((3, 2, 2)), bias=jnp.zeros((2, 2))),
    'content_bias': dict(kernel=jnp.zeros((3, 2))),  # a projection
    'LayerNorm_0': dict(scale=jnp.zeros((4, 3)), bias=jnp.zeros(3)),
    'offset': jnp.zeros(3),
  }
  assert parameters.decays(params) == {
    'embedding': True,
    'query': dict(kernel=True, bias=False),
    'content_bias': dict(kernel=True),
    'LayerNorm_0': dict(scale=False, bias=False),
    'offset': False,
  }


def test_clip():
  params = dict(kernel=jnp.zeros((2, 2)))
  grads = dict(kernel=jnp.full((2, 2), 100.0))
  fields = dict(total_steps=5, lr=1.0, schedule='constant', eps=1.0)
  tx, _ = optim.build(clip=0.5, **fields)
  updates, _ = tx.update(grads, tx.init(params), params)
  # Of norm 0.5 each of four is 0.25.
  np.testing.assert_allclose(
    updates['kernel'], np.full((2, 2), -0.25 / 1.25), rtol=1e-5
  )


NAMES = [
  'embed/embedding',
  'types/embedding',
  'encoder/layer_0/kernel',
  'encoder/layer_1/kernel',
  'encoder/layer_2/kernel',
  'encoder/norm/scale',
  'head/bias',
]


def test_layer_rates():
  params = tree_table.tree(dict.fromkeys(NAMES, 'float32[3]'))
  got = tree_table.named(parameters.layer_rates(params, 0.5))
  powers = (4, 4, 3, 2, 1, 0, 0)
  assert got == {n: 0.5**p for n, p in zip(NAMES, powers, strict=True)}


def test_layer_decay_scales_the_update():
  """Weight decay and all, as one rate a layer would."""
  shapes = tree_table.tree(dict.fromkeys(NAMES, 'float32[3, 5]'))
  keys = iter(jax.random.split(jax.random.key(0), 2 * len(NAMES)))
  params, grads = (
    jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), shapes)
    for _ in range(2)
  )
  found = []
  for decay in (1.0, 0.7):
    fields = dict(lr=0.1, weight_decay=0.3, clip=1.0, schedule='constant')
    tx, _ = optim.build(total_steps=9, layer_decay=decay, **fields)
    found.append(tx.update(grads, tx.init(params), params)[0])
  want = jax.tree.map(
    jnp.multiply, found[0], parameters.layer_rates(params, 0.7)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-6), found[1], want
  )


def test_ema():
  ema = optim.ema_update(dict(a=jnp.ones(3)), dict(a=jnp.zeros(3)), 0.9)
  np.testing.assert_allclose(ema['a'], np.full(3, 0.9), rtol=1e-6)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(name='sgd'), "optim.name='sgd'; there are adam, adamw"),
    (
      dict(schedule='step'),
      "optim.schedule='step'; there are inverse_sqrt, linear, cosine, wsd, ",
    ),
    (dict(schedule='inverse_sqrt'), 'optim.warmup_steps=0; inverse_sqrt needs'),
    (dict(warmup_steps=9), 'optim.warmup_steps=9 leaves none of total_steps=9'),
    (dict(schedule='constant', end_lr=0.1), 'only linear, cosine, wsd end'),
    (dict(name='adam', weight_decay=0.1), 'only adamw and muon'),
    (dict(lr=-1.0), 'optim.lr=-1.0; expected at least 0'),
    (dict(clip=math.nan), 'optim.clip=nan; expected at least 0'),
    (dict(layer_decay=0.0), 'optim.layer_decay=0.0; expected above 0'),
    (dict(ema=1.0), 'optim.ema=1.0; expected at least 0, below 1'),
  ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    optim.build(total_steps=9, **fields)


def loss(params, batch, key):
  return model.loss(params, batch, key, rate=0.0)


def accumulate(n, loss=loss, dtype=jnp.float32):
  params = jax.tree.map(
    lambda x: x.astype(dtype), model.init(jax.random.key(0))
  )
  specs = jax.tree.map(lambda x: PartitionSpec(), params)
  run = gradients.accumulate(loss, sharding.make_mesh(), specs, n)
  return jax.jit(run)(params, model.batch(0), jax.random.key(1))


@pytest.mark.parametrize('n', [1, 3, 48])
def test_accumulation_is_the_full_batch(n):
  """Weights are uneven, and in 48 parts of one row each some are zero."""
  weight = model.batch(0)['weight']
  assert 0 in weight

  def mean(params):
    s, (w, _) = loss(params, model.batch(0), jax.random.key(0))
    return s / w

  expected = jax.value_and_grad(mean)(model.init(jax.random.key(0)))
  (value, (w, aux)), grads = accumulate(n)
  assert (w, aux['rows']) == (weight.sum(), model.ROWS)
  for a, b in zip(
    jax.tree.leaves((value, grads)), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_one_part_has_the_key_of_the_plain_step():
  batch, params = model.batch(0), model.init(jax.random.key(0))
  s, (w, _) = model.loss(params, batch, jax.random.key(1))
  (value, _), _ = accumulate(1, model.loss)
  np.testing.assert_allclose(value, s / w, rtol=1e-6)


def test_parts_have_keys_of_their_own():
  def draw(params, batch, key):
    x = jax.random.uniform(key)
    return 0.0 * params['layer_0']['bias'].sum(), (1.0, dict(x=x, square=x * x))

  (_, (w, aux)), _ = accumulate(4, draw)
  assert w == 4
  assert aux['square'] / 4 > (aux['x'] / 4) ** 2 + 1e-3


def test_low_precision_gradients_add_up_in_float32():
  _, grads = accumulate(48, dtype=jnp.bfloat16)
  _, exact = accumulate(1)
  assert grads['layer_1']['kernel'].dtype == jnp.bfloat16
  error = optax.tree.norm(optax.tree.sub(grads, exact)) / optax.tree.norm(exact)
  assert error < 0.02


def test_parts_that_do_not_divide():
  with pytest.raises(ValueError, match='accumulate=5; expected a divisor'):
    accumulate(5)


@few(
  itertools.product(optim.OPTIMIZERS, [1.0, 0.7]),
  [('muon', 0.7)],
  'name, layer_decay',
)
def test_layers_that_are_stacked_move_alike(name, layer_decay):
  """Two updates of every parameter equal those of a layer each."""
  kernel = dict(num_heads=2, name='mhe_mul')  # with vectors of rank 2
  batch = dict(tokens=np.zeros((1, 5), int))
  net = models.build(
    'decoder', dim=6, num_layers=2, vocab_size=7, mlp_dim=9, attention=kernel
  )
  params = small.parameters(net, batch)
  decay = {} if name == 'adam' else dict(weight_decay=0.1)
  tx, _ = optim.build(
    total_steps=TOTAL, name=name, lr=LR, schedule='constant', clip=0.5,
    layer_decay=layer_decay, **decay,
  )  # fmt: skip

  @jax.jit
  def update(params, opt, i):
    grads = jax.tree.map(lambda x: jnp.sin(x + i), params)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt

  def two(params):
    once = update(params, jax.jit(tx.init)(params), 0)
    return update(*once, 1)

  want, got = two(params), two(stacked.stack(params))
  assert stacked.LAYERS in got[0]['decoder']
  got = stacked.unstack(got)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, got, want)
