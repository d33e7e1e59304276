# SPDX-License-Identifier: Apache-2.0
"""The NNX module is nnx.MultiHeadAttention, and every variant is the layer."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention.nnx import MultiHeadAttention
from tests.attention import variants as V
from tests.few import few

B, T, D = 2, 5, 12
CAUSAL = attention.Mask(causal=True)


def close(x, y):
  np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(1), (B, T, D))


@pytest.mark.parametrize('fields', [{}, dict(qkv_features=8, out_features=7)])
def test_mha_has_the_parameters_of_nnx(x, fields):
  theirs = nnx.MultiHeadAttention(
    4, D, **fields, decode=False, rngs=nnx.Rngs(0)
  )
  ours = MultiHeadAttention(4, D, **fields, rngs=nnx.Rngs(1))
  state = nnx.state(theirs, nnx.Param)
  assert jax.tree.structure(nnx.to_pure_dict(state)) == jax.tree.structure(
    nnx.to_pure_dict(nnx.state(ours, nnx.Param))
  )
  nnx.update(ours, state)
  close(ours(x), theirs(x))
  mask = jnp.tril(jnp.ones((1, 1, T, T), bool))
  close(ours(x, x, mask=mask), theirs(x, x, mask=mask))


def test_it_decodes_as_nnx_does(x):
  theirs = nnx.MultiHeadAttention(4, D, decode=True, rngs=nnx.Rngs(0))
  ours = MultiHeadAttention(4, D, decode=True, rngs=nnx.Rngs(1))
  nnx.update(ours, nnx.state(theirs, nnx.Param))
  with pytest.raises(ValueError, match='Call init_cache before decoding'):
    ours(x)
  for model in (ours, theirs):
    model.init_cache(x.shape)
  step = nnx.jit(lambda model, x: model(x))
  for t in range(T):
    close(step(ours, x[:, t : t + 1]), theirs(x[:, t : t + 1]))
  assert ours.past.get_value().index.tolist() == [T, T]
  ours.init_cache(x.shape)  # it begins again, here with the whole prompt
  mask = jnp.tril(jnp.ones((1, 1, T, T), bool))
  whole = nnx.MultiHeadAttention(4, D, decode=False, rngs=nnx.Rngs(0))
  close(ours(x), whole(x, mask=mask))


@few(V.NAMES, ['mhe_add'])
def test_every_variant_is_its_layer(case):
  """Of the same parameters, and it decodes in two calls."""
  name, fields = V.CASES[case]
  fields = dict(num_heads=4, in_features=D, qkv_features=D) | fields
  x = jax.random.normal(jax.random.key(1), (B, T, D))
  ours = MultiHeadAttention(
    **fields, variant=name, decode=True, rngs=nnx.Rngs(0)
  )
  params = nnx.to_pure_dict(nnx.state(ours, nnx.Param))
  del fields['in_features']
  layer = attention.build(name, **fields)
  want = layer.apply({'params': params}, x, mask=CAUSAL)
  ours.init_cache(x.shape)
  close(jnp.concatenate([ours(x[:, :2]), ours(x[:, 2:])], 1), want)


def test_memory_of_another_width_weights_and_dropout(x):
  ours = MultiHeadAttention(
    4, D, in_kv_features=7, variant='mhe_mul', dropout_rate=0.5,
    rngs=nnx.Rngs(0, dropout=1),
  )  # fmt: skip
  memory = jax.random.normal(jax.random.key(2), (B, 3, 7))
  one, other = (ours(x, memory, deterministic=False) for _ in range(2))
  assert np.abs(one - other).max() > 1e-3
  close(*(ours(x, memory, deterministic=True) for _ in range(2)))
  ours(x, memory, deterministic=True, sow_weights=True)
  (weights,) = jax.tree.leaves(nnx.state(ours, nnx.Intermediate))
  assert weights.shape == (B, 4, T, 3)
