# SPDX-License-Identifier: Apache-2.0
"""Stack: stochastic depth, shared layers, scan and remat."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.models import layers
from collab.models.stack import Stack
from collab.models.transformer import Block, BlockConfig
from tests.few import few
from tests.models import small
from tests.models.small import ATTENTION, D

BLOCK = dict(attention=ATTENTION['collab'], mlp_dim=17, norm='pre')
WAYS = {
  'loop': {},
  'scan': dict(scan=True),
  'remat': dict(remat='full'),
  'dots': dict(remat='dots'),
  'both': dict(scan=True, remat='full'),
}


def stack(num_layers=3, **fields):
  return Stack(num_layers, BlockConfig(**BLOCK), **fields)


def inputs(B):
  return jax.random.normal(jax.random.key(3), (B, 7, D))


# Stochastic depth -------------------------------------------------------------


def test_drop_path_drops_whole_examples():
  """x / (1 - rate) or 0 for all of an example, with the stated probability."""
  B, rate = 4001, 0.3
  x = jnp.ones((B, 2, 3)) * jnp.arange(1, 4)[None, None]
  drop = jax.jit(layers.drop_path)  # the rate is traced, as in a scan
  got = np.asarray(drop(jax.random.key(0), x, rate))
  kept = got[:, 0, 0] > 0
  small.close(got, kept[:, None, None] * x / (1 - rate), 1e-6)
  deviation = (rate * (1 - rate) / B) ** 0.5
  assert abs((1 - kept.mean()) - rate) < 4 * deviation
  small.close(got.mean(0), x[0], 4 * 3 * deviation / (1 - rate))
  assert (drop(jax.random.key(1), x, rate) != got).any()
  np.testing.assert_array_equal(drop(jax.random.key(0), x, 0.0), x)


def test_rates_rise_evenly():
  rates = []

  def watch(f, args, kwargs, context):
    if isinstance(context.module, Block) and context.method_name == '__call__':
      rates.append(kwargs['drop_path'])
    return f(*args, **kwargs)

  with nn.intercept_methods(watch):
    jax.eval_shape(stack(4, drop_path=0.6).init, jax.random.key(0), inputs(1))
  small.close(rates, [0, 0.2, 0.4, 0.6], 1e-6)


@few(WAYS, ['loop', 'scan'], 'way')
def test_drop_path_of_a_stack(way):
  """Whole examples skip the last layer's f, at its rate; the first's never."""
  B, rate = 401, 0.3
  x, model = inputs(B), stack(2, drop_path=rate, **WAYS[way])
  params = small.parameters(model, x)
  last = params['layer_1']
  last['mlp_out'] = jax.tree.map(jnp.zeros_like, last['mlp_out'])

  def scaled(factor):
    out = jax.tree.map(lambda x: x * factor, last['self_attention']['out'])
    attention = last['self_attention'] | dict(out=out)
    return params | dict(layer_1=last | dict(self_attention=attention))

  dropped = small.apply(model, scaled(0.0), x)
  kept = small.apply(model, scaled(1 / (1 - rate)), x)
  got = small.apply(model, params, x, jax.random.key(5))
  skips = np.isclose(got, dropped, atol=1e-4).all((1, 2))
  stays = np.isclose(got, kept, atol=1e-4).all((1, 2))
  assert (skips ^ stays).all()
  assert abs(skips.mean() - rate) < 4 * (rate * (1 - rate) / B) ** 0.5
  again = small.apply(model, params, x, jax.random.key(5))
  np.testing.assert_array_equal(got, again)
  other = small.apply(model, params, x, jax.random.key(6))
  assert np.abs(got - other).max() > 0.01


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_impossible_drop_path(rate):
  with pytest.raises(ValueError, match=f'0 to below 1, got {rate}'):
    jax.eval_shape(stack(drop_path=rate).init, jax.random.key(0), inputs(1))


# Scan, remat and shared layers ------------------------------------------------


def value_and_grad(model, params, x):
  loss = lambda params: (model.apply({'params': params}, x) ** 2).mean()
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize('way', WAYS)
def test_drop_path_is_off_without_a_key(way):
  x = inputs(2)
  params = small.parameters(stack(2), x)
  model = stack(2, drop_path=0.3, **WAYS[way])
  tree = small.shapes(model, x)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, tree)
  want = small.apply(stack(2), params, x)
  small.close(small.apply(model, params, x), want)


@pytest.mark.parametrize('order', [(0, 0, 0), (0, 1, 0)])
def test_shared_layers_are_a_loop(order):
  """Parameters of several blocks: the value; their gradient is the sum."""
  x, names = inputs(2), [f'layer_{i}' for i in order]
  params = small.parameters(stack(order=order), x)
  assert set(params) == {*names, 'norm'}
  copies = {f'layer_{n}': params[name] for n, name in enumerate(names)}
  value, grads = value_and_grad(stack(), params | copies, x)
  want = dict(norm=grads['norm'])
  for n, name in enumerate(names):
    more = grads[f'layer_{n}']
    have = want.get(name, jax.tree.map(jnp.zeros_like, more))
    want[name] = jax.tree.map(jnp.add, have, more)
  for options in ({}, WAYS['both']):
    got = value_and_grad(stack(order=order, **options), params, x)
    jax.tree.map(small.close, got, (value, want))


def test_remat_saves_memory():
  """The less is kept the more; value and gradient stay (on CPU: scanned)."""
  x, taken = jnp.ones((4, 128, 32)), []
  block = dict(attention=dict(name='mha', num_heads=2), mlp_dim=128)
  init = Stack(6, BlockConfig(**block), scan=True).init
  params = jax.jit(lambda key: init(key, x))(jax.random.key(0))['params']
  found = []
  for remat in ('none', 'dots', 'full'):
    model = Stack(6, BlockConfig(**block), scan=True, remat=remat)
    loss = lambda params, model=model: (
      model.apply({'params': params}, x) ** 2
    ).mean()
    run = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    taken.append(run.memory_analysis().temp_size_in_bytes)
    found.append(run(params))
  assert taken[0] > 1.3 * taken[1] > 1.3**2 * taken[2]
  for other in found[1:]:
    jax.tree.map(small.close, other, found[0])


def test_remat_is_one_of_three():
  with pytest.raises(ValueError, match="remat='all' is none of none, dots, f"):
    stack(remat='all').init(jax.random.key(0), inputs(2))


# The MLP and biases -----------------------------------------------------------


@pytest.mark.parametrize(
  'name, want',
  [
    ('relu2', [0, 0, 9]),
    ('quick_gelu', [-2 / (1 + np.exp(3.404)), 0, 3 / (1 + np.exp(-5.106))]),
    ('tanh', np.tanh([-2, 0, 3])),
    ('mish', [x * np.tanh(np.log1p(np.exp(x))) for x in (-2, 0, 3)]),
  ],
)
def test_activations(name, want):
  x = jnp.array([-2.0, 0.0, 3.0])
  small.close(layers.ACTIVATIONS[name](x), want, 1e-6)


@pytest.mark.parametrize('norm', ['pre', 'both'])
def test_layer_scale(norm):
  """1 changes nothing, 0 leaves only the residual connection."""
  fields = BLOCK | dict(norm=norm)
  plain, scaled = (
    Block(BlockConfig(**fields | dict(layer_scale=x))) for x in (0.0, 0.5)
  )
  x = inputs(2)
  params = jax.tree.map(
    lambda x: jnp.ones(x.shape), small.shapes(scaled, x)
  ) | (small.parameters(plain, x))
  assert params['self_scale'].shape == params['mlp_scale'].shape == (D,)
  want = small.apply(plain, small.parameters(plain, x), x)
  small.close(small.apply(scaled, params, x), want, 1e-6)
  off = dict.fromkeys(('self_scale', 'mlp_scale'), jnp.zeros(D))
  np.testing.assert_array_equal(small.apply(scaled, params | off, x), x)
  fresh = scaled.init(jax.random.key(0), x)['params']
  np.testing.assert_array_equal(fresh['mlp_scale'], np.full(D, 0.5))


@pytest.mark.parametrize('mlp', layers.MLPS)
@pytest.mark.parametrize('own', [{}, dict(use_bias=True)])
def test_no_biases(mlp, own):
  """Neither attention nor MLP has any, unless the attention says otherwise."""
  attention = dict(name='mha', num_heads=4) | own
  fields = dict(attention=attention, mlp=mlp, norm_kind='rms', use_bias=False)
  tree = small.shapes(Block(BlockConfig(**fields)), inputs(1))
  with_bias = {name for name, layer in tree.items() if 'bias' in str(layer)}
  assert with_bias == ({'self_attention'} if own else set())


# Layers that differ -----------------------------------------------------------


def with_fields(**fields):
  return BLOCK | dict(attention={**ATTENTION['collab'], **fields})


@pytest.mark.parametrize('way', ['loop', 'remat'])
def test_a_field_may_differ_from_layer_to_layer(way):
  widths = (7, 5, 3)
  block = with_fields(shared_dim=widths)
  x = inputs(2)
  model = Stack(3, BlockConfig(**block), **WAYS[way])
  variables = model.init(jax.random.key(0), x)
  params = variables['params']
  for i, width in enumerate(widths):
    kernel = params[f'layer_{i}']['self_attention']['query']['kernel']
    assert kernel.shape == (D, width)
  by_hand = x
  for i, width in enumerate(widths):
    one = with_fields(shared_dim=width)
    by_hand = Block(BlockConfig(**one)).apply(
      {'params': params[f'layer_{i}']}, by_hand
    )
  by_hand = nn.LayerNorm().apply({'params': params['norm']}, by_hand)
  np.testing.assert_allclose(model.apply(variables, x), by_hand, atol=1e-5)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(shared_dim=(7, 5)), r'shared_dim=\(7, 5\) has 2 values for 3 layers'),
    (dict(shared_dim=(7, 5, 5)), 'scan=True needs layers alike'),
  ],
)
def test_fields_that_do_not_fit_the_layers(fields, message):
  block = with_fields(**fields)
  with pytest.raises(ValueError, match=message):
    Stack(3, BlockConfig(**block), scan=True).init(jax.random.key(0), inputs(2))
