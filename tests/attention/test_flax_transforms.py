# SPDX-License-Identifier: Apache-2.0
"""Every variant under what Flax does to modules: transforms, boxes, NNX.

What is expected is what the plain layer gives on the same parameters; that this
is right is tested in test_variants.
"""

import dataclasses
import functools

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from tests.attention import variants as V
from tests.attention.variants import close, normal
from tests.few import few

# What Flax does meets the core, which is one; mhe_add has parameters that are
# no Dense's besides.
QUICK = ('mhe_add',)
every_case = few(V.CASES, QUICK)
every_name = few(V.NAMES, QUICK)
B, T = 2, 3
CAUSAL = attention.Mask(causal=True)
half = pytest.mark.parametrize(
  'dtype', ['bfloat16', pytest.param('float16', marks=pytest.mark.slow)]
)


def inputs(case):
  return normal(np.random.default_rng(0), B, T, V.width(case))


def causal(case, x, params=None):
  """The plain layer, decoding's goal."""
  variables = {'params': V.params(case) if params is None else params}
  return V.build(case).apply(variables, x, mask=CAUSAL)


# Transformations of modules ---------------------------------------------------

TRANSFORMS = {
  'remat': nn.remat,
  'jit': nn.jit,
  'remat of jit': lambda cls: nn.remat(nn.jit(cls)),
}


def transformed(transform, case, **fields):
  """The case's layer, of the transformed class."""
  plain = V.build(case, **fields)
  names = {f.name for f in dataclasses.fields(plain)} - {'parent', 'name'}
  cls = TRANSFORMS[transform](type(plain))
  return cls(**{n: getattr(plain, n) for n in names})


@every_name
@few(['remat', 'jit', 'remat of jit'], ['remat'], 'transform')
def test_transformed_layers_decode_as_self_attention(case, transform):
  """Arguments become arrays of their own: none is the object it was."""
  x, params = inputs(case), V.params(case)
  layer = transformed(transform, case, decode=True)
  given = 3 if layer.separate_values else 2
  for n in (1, given):
    tree = layer.init(jax.random.key(0), *[x] * n)
    tree, o = tree | {'params': params}, []
    for t in range(T):
      token = x[:, t : t + 1]
      out, new = layer.apply(tree, *[token] * n, mutable=['cache'])
      tree = tree | new
      o.append(out)
    close(np.concatenate(o, 1), causal(case, x))


@every_name
@pytest.mark.parametrize('transform', ['remat', 'jit'])
def test_transformed_layers_differentiate_and_drop(case, transform):
  x, params = inputs(case), V.params(case)

  def run(layer):
    def loss(params):
      o = layer.apply(
        {'params': params}, x, mask=CAUSAL, rngs={'dropout': jax.random.key(0)}
      )
      return (o**2).sum()

    return jax.value_and_grad(loss)(params)

  fields = dict(dropout_rate=0.3, deterministic=False)
  # nn.jit draws its own dropout keys, so that one is compared without.
  fields = {} if transform == 'jit' else fields
  got = run(transformed(transform, case, **fields))
  want = run(V.build(case, **fields))
  # Of some biases the gradient is 0 but for rounding errors of the others.
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want[1]))
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)


class Step(nn.Module):
  """A layer whose call nn.scan and nn.vmap can take."""

  case: str
  decode: bool = False

  def setup(self):
    self.layer = V.build(self.case, decode=self.decode)

  def __call__(self, carry, x):
    return carry, self.layer(x, mask=None if self.decode else CAUSAL)


@every_name
@pytest.mark.parametrize('decode', [False, True])
def test_an_ensemble_by_vmap(case, decode):
  """Two layers of other parameters on the same inputs, and their caches."""
  trees = V.params(case), V.params(case, seed=5)
  params = jax.tree.map(lambda *x: np.stack(x), *trees)
  model = nn.vmap(
    Step,
    in_axes=None,
    axis_size=2,
    variable_axes={'params': 0, 'cache': 0},
    split_rngs={'params': True},
  )(case, decode)
  x = inputs(case)
  tree = model.init(jax.random.key(0), None, x)
  tree = tree | {'params': {'layer': params}}
  (_, o), _ = model.apply(tree, None, x, mutable=['cache'])
  for got, params in zip(o, trees, strict=True):
    close(got, causal(case, x, params))


@every_name
def test_a_scan_over_tokens_decodes(case):
  """The cache is what the scan carries."""
  x = inputs(case)
  model = nn.scan(
    Step,
    variable_carry='cache',
    variable_broadcast='params',
    split_rngs={'params': False},
    in_axes=1,
    out_axes=1,
  )(case, decode=True)
  cache = Step(case, decode=True).init(jax.random.key(0), None, x)['cache']
  tree = {'params': {'layer': V.params(case)}, 'cache': cache}
  (_, o), _ = model.apply(tree, None, x[:, :, None], mutable=['cache'])
  close(o[:, :, 0], causal(case, x))


class Cross(nn.Module):
  """Cross attention, its memory filled by a second method."""

  case: str

  def setup(self):
    self.layer = V.build(self.case, decode=True)

  def __call__(self, x, *memory):
    return x, self.layer(x, *memory)

  def fill(self, x, *memory):
    return x, self.layer.prefill_memory(*memory)


@every_name
@pytest.mark.parametrize('transform', ['scan', 'remat'])
def test_transformed_cross_attention_has_a_memory(case, transform):
  x, *memory = (a[:, :T] for a in V.inputs(case))
  params = {'layer': V.params(case, memory=True)}
  methods = ['__call__', 'fill']
  if transform == 'remat':
    model = nn.remat(Cross, methods=methods)(case)
  else:
    params = jax.tree.map(lambda x: x[None], params)
    model = nn.scan(
      Cross,
      variable_axes={'params': 0, 'cache': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=1,
      methods=methods,
    )(case)
  tree = model.init(jax.random.key(0), x, *memory) | {'params': params}
  run = functools.partial(model.apply, mutable=['cache'])
  _, new = run(tree, x, *memory, method='fill')
  (_, o), _ = run(tree | new, x)
  plain = {'params': V.params(case, memory=True)}
  want = V.build(case).apply(plain, x, *memory)
  close(o.reshape(want.shape), want)


# Parameters in boxes ----------------------------------------------------------


@every_case
@pytest.mark.parametrize(
  'box', [nn.with_partitioning, nn.with_logical_partitioning]
)
def test_boxed_parameters(case, box):
  """Names of axes travel with the kernels; values are as without."""
  init = nn.initializers.lecun_normal()
  boxed = V.build(case, kernel_init=box(init, (None, 'model', None)))
  x, *memory = V.inputs(case)
  tree = boxed.init(jax.random.key(0), x, *memory)
  plain = V.build(case, kernel_init=init)
  want = plain.init(jax.random.key(0), x, *memory)
  jax.tree.map(np.testing.assert_array_equal, nn.unbox(tree), want)
  kernel = tree['params']['out']['kernel']
  assert isinstance(kernel, nn.Partitioned)
  assert kernel.names == (None, 'model', None)
  np.testing.assert_array_equal(
    boxed.apply(tree, x, *memory), plain.apply(want, x, *memory)
  )
  for name, part in tree['params'].items():
    if isinstance(part, dict):
      assert isinstance(part['kernel'], nn.Partitioned), name


# NNX --------------------------------------------------------------------------


def to_nnx(case, *args, **fields):
  """The case's layer as an NNX module, and its parameters as linen has them."""
  layer = V.build(case, **fields)
  model = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0, dropout=1))
  model.lazy_init(*args)
  return model, nnx.to_pure_dict(nnx.state(model, nnx.Param))


@every_case
def test_nnx_computes_and_differentiates(case):
  x = inputs(case)
  model, params = to_nnx(case, x)
  run = nnx.jit(lambda model: model(x, mask=CAUSAL))
  close(run(model), causal(case, x, params))
  grads = nnx.grad(lambda model: (run(model) ** 2).sum())(model)
  want = jax.grad(lambda params: (causal(case, x, params) ** 2).sum())(params)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(want))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale),
    nnx.to_pure_dict(grads),
    want,
  )


@every_name
def test_nnx_drops_and_sows(case):
  x = inputs(case)
  model, _ = to_nnx(case, x, dropout_rate=0.5, deterministic=False)
  sow = dict(sow_weights=True, mutable=['intermediates'])
  one, other = model(x, **sow), model(x, **sow)
  assert np.abs(one - other).max() > 1e-3
  *_, weights = jax.tree.leaves(nnx.state(model, nnx.Intermediate))
  ones = np.ones((B, V.build(case).num_heads, T))
  np.testing.assert_allclose(weights.sum(-1), ones, rtol=1e-5)


@every_name
def test_nnx_decodes(case):
  x = inputs(case)
  model, params = to_nnx(case, x, decode=True)
  o = [model(x[:, t : t + 1], mutable=['cache']) for t in range(T)]
  close(np.concatenate(o, 1), causal(case, x, params))


# Formats and sizes ------------------------------------------------------------


@every_case
@half
def test_no_dtype_is_promoted_without_a_cast(case, dtype):
  """Forward, backward, dropout, sown weights and caches, traced."""

  def run(self_params, cross_params, x, *memory):
    layer = V.build(case, dtype=dtype, dropout_rate=0.5)
    decoding = layer.clone(decode=True, dropout_rate=0.0)
    apply = functools.partial(
      layer.apply, dropout_rng=jax.random.key(0), deterministic=False
    )

    def loss(params, *args):
      o = apply({'params': params}, *args, mask=CAUSAL)
      return o.astype('float32').sum()

    out = []
    for params, *args in ([self_params, x], [cross_params, x, *memory]):
      out.append(jax.grad(loss, tuple(range(len(args) + 1)))(params, *args))
      out.append(apply({'params': params}, *args, sow_weights=True))
      tree = decoding.init(jax.random.key(0), *args) | {'params': params}
      token, kwargs = x[:, :1], dict(mutable=['cache'])
      if len(args) > 1:
        kwargs['method'], token = 'prefill_memory', None
      tokens = memory if token is None else (token,)
      out.append(decoding.apply(tree, *tokens, **kwargs)[1])
    return out

  args = [jnp.asarray(x, dtype) for x in V.inputs(case)]
  with jax.numpy_dtype_promotion('strict'):
    out = jax.eval_shape(run, V.params(case), V.params(case, True), *args)
  kept = {
    x.dtype for o in (out[2], out[5]) for x in jax.tree.leaves(o['cache'])
  }
  assert kept == {jnp.dtype(dtype), jnp.dtype('int32')}


@every_case
@few(
  [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)], [(2, 0, 5), (2, 3, 0)], 'sizes'
)
def test_no_batch_no_queries_or_no_keys(case, sizes):
  """Empty results; without keys zero heads, so that the bias is left."""
  n, t, s = sizes
  x, *memory = V.inputs(case)
  x = np.zeros((n, t, x.shape[-1]), 'float32')
  memory = [np.zeros((n, s, y.shape[-1]), 'float32') for y in memory]
  params = V.params(case, memory=True)
  mask = attention.Mask(causal=True, key_valid=np.ones((n, s), bool))
  layer = V.build(case, dropout_rate=0.5)

  def apply(params, **kwargs):
    return layer.apply({'params': params}, x, *memory, mask=mask, **kwargs)

  o = apply(params, deterministic=True)
  want = np.broadcast_to(params['out']['bias'], x.shape)
  np.testing.assert_array_equal(o, want)
  for broadcast in (True, False):
    layer = layer.clone(broadcast_dropout=broadcast)
    on = dict(deterministic=False, dropout_rng=jax.random.key(0))
    np.testing.assert_array_equal(apply(params, **on), want)
  grads = jax.grad(lambda p: apply(p, deterministic=True).sum())(params)
  for name, g in grads.items():
    total = sum(np.abs(x).sum() for x in jax.tree.leaves(g))
    assert total == (want.size if name == 'out' else 0)
  _, sown = apply(
    params, deterministic=True, sow_weights=True, mutable=['intermediates']
  )
  (weights,) = sown['intermediates']['attention_weights']
  assert weights.shape == (n, layer.num_heads, t, s)


@every_case
def test_init_without_tokens_makes_all_parameters(case):
  layer, (x, *memory) = V.build(case), V.inputs(case)
  empty = [a[:0, :0] for a in (x, *memory)]
  init = functools.partial(layer.init, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, init(*empty), init(x, *memory))


@every_name
def test_no_tokens_are_appended(case):
  layer = V.build(case, decode=True)
  x, tree = inputs(case), {'params': V.params(case)}
  tree |= {'cache': layer.init(jax.random.key(0), x)['cache']}
  o, new = layer.apply(tree, x[:, :0], mutable=['cache'])
  assert o.shape == x[:, :0].shape
  jax.tree.map(np.testing.assert_array_equal, new['cache'], tree['cache'])


@every_name
@half
def test_parameters_of_numpy_keep_the_dtype(case, dtype):
  """NumPy promotes a bfloat16 array and a float to float32."""
  x, layer = inputs(case), V.build(case, dtype=dtype)
  by_numpy = layer.apply({'params': V.params(case)}, x)
  by_jax = layer.apply({'params': jax.tree.map(jnp.asarray, V.params(case))}, x)
  assert by_numpy.dtype == by_jax.dtype == dtype
  np.testing.assert_array_equal(by_numpy, by_jax)
