# SPDX-License-Identifier: Apache-2.0
"""Every conversion against the layer that it converts, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention.variants.collab import concatenate
from collab.convert.decompose import cp, input_statistics, layers
from collab.convert.decompose.mha import read
from tests.attention import reference

B, T, H, K, D = 2, 11, 3, 5, 15
BIAS = ('query', 'key', 'value', 'out')
RNG = np.random.default_rng(0)
# Inputs with a mean, and with directions that hardly vary.
SPREAD = np.linalg.qr(RNG.normal(size=(D, D)))[0] * np.geomspace(3, 0.03, D)
MEAN = RNG.normal(size=D)
X = RNG.normal(size=(B, T, D)) @ SPREAD.T + MEAN

FULL = {
  'collab': ('collab', dict(shared_dim=H * K)),
  'collab, shared bias': ('collab', dict(shared_dim=H * K, bias='shared')),
  'gqa': ('gqa', dict(kv_heads=H)),
  'gqa, mean': ('gqa', dict(kv_heads=H, pooling='mean')),
  'mha': ('mha', dict(key_features=H * K)),
  'mla': ('mla', dict(latent_dim=D)),
}
SMALL = {
  'collab': ('collab', dict(shared_dim=4)),
  'collab, shared bias': ('collab', dict(shared_dim=4, bias='shared')),
  'collab, no bias': ('collab', dict(shared_dim=4, bias='none')),
  'gqa': ('gqa', dict(kv_heads=1)),
  'gqa, mean': ('gqa', dict(kv_heads=1, pooling='mean')),
  'mha': ('mha', dict(key_features=2 * H)),
  'mhe_mul': ('mhe_mul', {}),
  'mla': ('mla', dict(latent_dim=4)),
}
INPUTS = {
  'white': input_statistics.white(D),
  'data': input_statistics.Moments(
    MEAN, SPREAD @ SPREAD.T, MEAN, SPREAD @ SPREAD.T, SPREAD @ SPREAD.T
  ),
}
cases = lambda cases: pytest.mark.parametrize(
  'name, fields', cases.values(), ids=cases
)
each_inputs = pytest.mark.parametrize('m', INPUTS.values(), ids=INPUTS)


def layer(seed=0, heads=H, width=K, biases=BIAS, dim=D):
  """Parameters of multi-head attention."""
  rng = np.random.default_rng(seed)
  params = {}
  for name in ('query', 'key', 'value', 'out'):
    last = (dim,) if name == 'out' else (heads, width)
    first = (heads, width) if name == 'out' else (dim,)
    params[name] = dict(kernel=rng.normal(size=first + last) / 3)
    if name in biases:
      params[name]['bias'] = rng.normal(size=last)
  return params


def fields_of_layer(fields):
  return {n: v for n, v in fields.items() if n not in ('pooling', 'sweeps')}


def output(name, params, x=X, y=None, **fields):
  """float64 [B, T, D] of a layer, by its formula."""
  wanted = ('kv_heads', 'bias', 'offset', 'mask', 'scale')
  own = {n: v for n, v in fields.items() if n in wanted}
  heads = len(params['out']['kernel'])
  y = x if y is None else y
  return reference.attention(name, params, x, y, y, num_heads=heads, **own)


def convert(name, params, m, **fields):
  return layers.VARIANTS[name](read(params), m, **fields)


def close(got, want, rel=1e-5):
  np.testing.assert_allclose(got, want, atol=rel * np.abs(want).max())


@cases(FULL)
@each_inputs
@pytest.mark.parametrize('biases', [BIAS, ()], ids=['biases', 'none'])
def test_exact_at_full_rank(name, fields, m, biases):
  params = layer(biases=biases)
  new = convert(name, params, m, **fields)
  mask = RNG.random((B, 1, T, T)) < 0.7
  close(
    output(name, new, mask=mask, **fields), output('mha', params, mask=mask)
  )


@cases(SMALL)
def test_tree_is_that_of_the_layer(name, fields):
  """Flax's layer takes it and computes what the formula says."""
  new = convert(name, layer(), INPUTS['data'], **fields)
  built = attention.build(name, num_heads=H, **fields_of_layer(fields))
  x = X / 4  # scores that float32 keeps to 1e-5
  want = jax.eval_shape(built.init, jax.random.key(0), jnp.float32(x))['params']
  shapes = lambda tree: jax.tree.map(np.shape, tree)
  assert shapes(new) == shapes(want)
  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), new)
  valid = jnp.arange(T)[None] < jnp.array([[T], [4]])
  mask = attention.Mask(key_valid=valid)
  got = jax.jit(built.apply)({'params': params}, jnp.float32(x), mask=mask)
  dense = np.asarray(valid)[:, None, None]
  close(got, output(name, new, x=x, mask=dense, **fields))


@cases(SMALL)
def test_padded_keys_are_not_seen(name, fields):
  new = convert(name, layer(), INPUTS['data'], **fields)
  mask = (np.arange(T) < 4)[None, None, None]
  other = X.copy()
  other[:, 4:] = 1e3
  want = output(name, new, mask=mask, **fields)[:, :4]
  got = output(name, new, x=other, mask=mask, **fields)[:, :4]
  np.testing.assert_array_equal(got, want)


# Layers that are of the other kind by construction: nothing is lost, though
# the widths are far below full. Scales and biases show here.


def test_exact_for_collaborative_heads():
  """Heads of key width 6, whose scale is still 1 / sqrt(V)."""
  params, k = layer(), 6
  rng = np.random.default_rng(1)
  u, v, m = (rng.normal(size=(n, k)) for n in (D, D, H))
  bias = rng.normal(size=(H, k))
  params['query'] = dict(kernel=u[:, None] * m[None] / 3, bias=bias)
  params['key'] = dict(kernel=np.repeat(v[:, None], H, 1) / 3)
  want = output('mha', params)
  for m in INPUTS.values():
    new = convert('collab', params, m, shared_dim=k, sweeps=600)
    close(output('collab', new), want)


def test_exact_for_a_bias_before_the_mixing():
  params, k = layer(), 5
  rng = np.random.default_rng(1)
  u, v, m = (rng.normal(size=(n, k)) for n in (D, D, H))
  b = rng.normal(size=k)
  params['query'] = dict(kernel=u[:, None] * m[None] / 3, bias=b[None] * m)
  params['key'] = dict(kernel=np.repeat(v[:, None], H, 1) / 3)
  want = output('mha', params)
  new = convert(
    'collab', params, INPUTS['data'], shared_dim=k, bias='shared', sweeps=900
  )
  close(output('collab', new, bias='shared'), want)


@each_inputs
@pytest.mark.parametrize('offset', [1.0, 0.25])
def test_exact_for_mhe_mul(m, offset):
  rng = np.random.default_rng(2)
  w = {n: rng.normal(size=(D, K)) / 3 for n in BIAS[:3]}
  b = {n: rng.normal(size=K) for n in BIAS[:3]}
  e = {n: 1 + 0.5 * rng.normal(size=(H, K)) for n in BIAS[:3]}
  params = {
    n: dict(kernel=w[n][:, None] * e[n][None], bias=b[n][None] * e[n])
    for n in w
  }
  params['out'] = layer()['out']
  new = convert('mhe_mul', params, m, offset=offset, sweeps=900)
  want = output('mha', params)
  close(output('mhe_mul', new, offset=offset), want)


@each_inputs
def test_exact_for_groups(m):
  """4 heads whose keys and values are, two by two, the same."""
  params = layer(heads=4)
  for name in ('key', 'value'):
    params[name] = {n: w[..., [0, 0, 2, 2], :] for n, w in params[name].items()}
  want = output('mha', params)
  for pooling in ('svd', 'mean'):
    new = convert('gqa', params, m, kv_heads=2, pooling=pooling)
    close(output('gqa', new, kv_heads=2), want)


@each_inputs
def test_exact_for_a_latent(m):
  params = layer()
  latent = np.random.default_rng(3).normal(size=(D, 4))
  for name in ('key', 'value'):
    up = params[name]['kernel'][:4]
    params[name]['kernel'] = np.einsum('dr,rhk->dhk', latent, up)
  new = convert('mla', params, m, latent_dim=4)
  close(output('mla', new, latent_dim=4), output('mha', params))


def test_another_scale_is_taken_into_the_queries():
  params = layer()
  mha = read(params, scale=0.3)
  new = layers.collab(mha, INPUTS['white'], shared_dim=H * K)
  close(output('collab', new), output('mha', params, scale=0.3))


# What is kept though something is lost.


def scores(name, params, x, y, **fields):
  """[H, B, T, S] about their mean over the keys, which changes no weight."""
  found = []
  for q, k, _, bias in reference.LAYERS[name](params, x, y, y, H, **fields):
    s = q @ k.swapaxes(1, 2)
    s = s if bias is None else s + bias[:, None]
    found.append(s - s.mean(-1, keepdims=True))
  return np.stack(found)


def test_content_bias_is_exact():
  """Of queries' input at its mean, and at 0 where nothing is known."""
  params = layer()
  for m, x in zip(INPUTS.values(), (np.zeros(D), MEAN), strict=True):
    new = convert('collab', params, m, shared_dim=2)
    x = np.broadcast_to(x, X.shape)
    want = scores('mha', params, x, X)
    close(scores('collab', new, x, X), want)


@cases({n: c for n, c in SMALL.items() if c[0] in ('gqa', 'mhe_mul', 'mla')})
def test_mean_of_the_values_is_exact(name, fields):
  """All keys at the mean: weights do not matter."""
  params = layer()
  x = np.broadcast_to(MEAN, X.shape)
  want = output('mha', params, x=x)
  new = convert(name, params, INPUTS['data'], **fields)
  if fields.get('pooling') == 'mean':
    assert np.abs(output(name, new, x=x, **fields) - want).max() > 0.1
  else:
    close(output(name, new, x=x, **fields), want)


@pytest.mark.parametrize('bias', ['content', 'shared', 'none'])
def test_grams_are_what_collab_decomposes(bias):
  """The scores' error on inputs, times their effects, is the one reported."""
  mha, m = read(layer()), INPUTS['data']
  if bias == 'none':
    mha = mha._replace(query_bias=0 * mha.query_bias)
  fields = dict(shared_dim=4, bias=bias, sweeps=7)
  new = layers.collab(mha, m, **fields)
  error = cp.decompose(*layers.grams(mha, m, bias), H, 4, 7).error
  # Inputs with exactly the moments: all pairs of 2 D points about the mean.
  points = np.concatenate([SPREAD.T, -SPREAD.T])[None] * D**0.5
  old = dict(
    query=dict(kernel=mha.query, bias=mha.query_bias),
    key=dict(kernel=mha.key),
    value=dict(kernel=mha.value),
  )
  x = points + MEAN
  want = scores('mha', old, x, x)
  lost = scores('collab', new, x, x, bias=bias) - want
  if bias == 'content':  # the mean query is exact, and not counted
    want = want - want.mean(2, keepdims=True)
  effects = layers.effects(mha, m)[:, None, None, None]
  ratio = np.linalg.norm(effects * lost) / np.linalg.norm(effects * want)
  np.testing.assert_allclose(ratio, error, rtol=1e-6)


def test_effects_are_what_weights_do_to_the_output():
  """The output's deviation from its mean, head by head, for white weights."""
  mha, m = read(layer()), INPUTS['data']
  points = np.concatenate([SPREAD.T, -SPREAD.T]) * D**0.5
  o = np.einsum('nd,dhk,hke->hne', points, mha.value, mha.out)
  want = np.sqrt((o**2).sum((1, 2)) / (2 * D))
  np.testing.assert_allclose(layers.effects(mha, m), want)
  mha.out[0] = 0
  least = 0.1 * np.sqrt((want[1:] ** 2).sum() / 3)
  got = layers.effects(mha, m)
  np.testing.assert_allclose(got, [least, *want[1:]])


def test_a_head_without_effect_yields():
  params = layer()
  errors = []
  for scale in (1, 1e-6):
    new = dict(params)
    out = params['out']['kernel'].copy()
    out[0] *= scale
    new['out'] = dict(kernel=out)
    old = scores('mha', params, X, X)
    new = convert('collab', new, INPUTS['data'], shared_dim=4)
    lost = np.square(scores('collab', new, X, X) - old).sum((1, 2, 3))
    errors.append(lost)
  assert errors[1][0] > errors[0][0]
  assert errors[1][1:].sum() < 0.9 * errors[0][1:].sum()


@pytest.mark.parametrize('case', ['collab', 'gqa', 'mhe_mul', 'mla'])
def test_looking_at_the_inputs_pays(case):
  name, fields = SMALL[case]
  params, losses = layer(), {}
  rng = np.random.default_rng(4)
  x = rng.normal(size=(16, 29, D)) @ SPREAD.T + MEAN
  wanted = {n: fields[n] for n in fields if n == 'kv_heads'}
  want = scores('mha', params, x, x)
  for what, m in INPUTS.items():
    new = convert(name, params, m, **fields)
    losses[what] = np.linalg.norm(scores(name, new, x, x, **wanted) - want)
  assert losses['data'] < 0.9 * losses['white'], losses


def test_svd_of_a_group_beats_its_mean():
  params, loss = layer(), {}
  want = scores('mha', params, X, X)
  for pooling in ('svd', 'mean'):
    fields = dict(kv_heads=1, pooling=pooling)
    new = convert('gqa', params, INPUTS['data'], **fields)
    lost = scores('gqa', new, X, X, kv_heads=1) - want
    loss[pooling] = np.linalg.norm(lost)
  assert loss['svd'] < 0.5 * loss['mean'], loss


@cases(SMALL)
def test_order_of_heads_is_free(name, fields):
  params, order = layer(), np.array([1, 2, 0])
  if name in ('collab', 'mhe_mul'):
    fields = fields | dict(sweeps=5)  # many amplify what is rounded
  moved = {
    n: {
      what: w.take(order, 0 if what == 'bias' or n == 'out' else 1)
      for what, w in p.items()
      if (n, what) != ('out', 'bias')
    }
    for n, p in params.items()
  }
  moved['out']['bias'] = params['out']['bias']
  one, two = (
    output(name, convert(name, p, INPUTS['data'], **fields), **fields)
    for p in (params, moved)
  )
  close(two, one, 1e-3)


@cases(SMALL)
def test_same_bits_every_time(name, fields):
  one, two = (
    convert(name, layer(), INPUTS['data'], **fields) for _ in range(2)
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)


# The limits.


@pytest.mark.parametrize('heads, width', [(1, 5), (5, 1), (1, 1)])
@cases(FULL)
def test_one_head_and_heads_of_width_one(name, fields, heads, width):
  params = layer(heads=heads, width=width)
  fields = dict(fields)
  fields |= dict.fromkeys(fields.keys() & {'kv_heads'}, heads)
  fields |= dict.fromkeys(
    fields.keys() & {'shared_dim', 'key_features'}, heads * width
  )
  new = convert(name, params, INPUTS['data'], **fields)
  close(output(name, new, **fields), output('mha', params))


@cases(SMALL)
def test_a_head_of_zeros_and_inputs_of_low_rank(name, fields):
  params = layer()
  for part, p in params.items():
    p['kernel'][(0,) if part == 'out' else (slice(None), 0)] = 0
  flat = SPREAD[:, :3] @ SPREAD[:, :3].T
  m = input_statistics.Moments(MEAN, flat, MEAN, flat, flat)
  new = convert(name, params, m, **fields)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
  # 3 directions fit in all these widths: inputs that vary in no others lose
  # nothing but what one bias for all heads can not hold.
  x = RNG.normal(size=(B, T, 3)) @ SPREAD[:, :3].T + MEAN
  if name in ('gqa', 'mla') and 'pooling' not in fields:
    close(output(name, new, x=x, **fields), output('mha', params, x=x))


def test_refuses():
  params, white = layer(), INPUTS['white']
  with pytest.raises(
    ValueError, match=r'^kv_heads=2 does not divide num_heads'
  ):
    convert('gqa', params, white, kv_heads=2)
  with pytest.raises(ValueError, match=r"^pooling='max'; there are svd, mean"):
    convert('gqa', params, white, kv_heads=1, pooling='max')
  for r in (0, D + 1):
    with pytest.raises(
      ValueError, match=rf'^latent_dim={r}; expected 1 to {D}'
    ):
      convert('mla', params, white, latent_dim=r)
  for k in (0, H * K + 1):
    with pytest.raises(ValueError, match=rf'^Key width {k}; expected 1 to 15'):
      convert('collab', params, white, shared_dim=k)
  with pytest.raises(ValueError, match=r"^bias='key'; there are content,"):
    convert('collab', params, white, shared_dim=3, bias='key')


def test_refuses_other_layers():
  params = layer()
  new = convert('mla', params, INPUTS['white'], latent_dim=3)
  with pytest.raises(ValueError, match=r'^Not the parameters of .*latent'):
    read(new)
  new = convert('gqa', params, INPUTS['white'], kv_heads=1)
  with pytest.raises(ValueError, match=r'^Not the kernels .* key \(15, 1, 5\)'):
    read(new)
  params['value']['bias'][0, 0] = np.inf
  with pytest.raises(ValueError, match=r'^The parameters of value are not fin'):
    read(params)
  params = layer()
  params['query']['kernel'] = params['query']['kernel'][..., :2]
  params['key']['kernel'] = params['key']['kernel'][..., :2]
  del params['query']['bias'], params['key']['bias']
  with pytest.raises(ValueError, match=r'^Heads have keys of width 2 and val'):
    convert('gqa', params, INPUTS['white'], kv_heads=1)


def test_mixing_of_a_copy_is_blocks_of_ones():
  new = convert('collab', layer(), INPUTS['white'], shared_dim=H * K)
  np.testing.assert_array_equal(new['mixing'], concatenate(None, (H, H * K)))
