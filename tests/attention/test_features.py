# SPDX-License-Identifier: Apache-2.0
"""A bias and a mask as features are the same bias and the same mask."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.attention import features, kernels, masks
from tests.attention.test_kernels import problem
from tests.attention.test_masks import literal
from tests.attention.variants import close

B, H, T, S = 2, 6, 11, 7
IDS = st.sampled_from([-(2**31), -3, 0, 5, 2**31 - 1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
  groups=st.sampled_from(
    [(6, 1, 1), (1, 1, 6), (2, 2, 1), (3, 1, 6), (6, 2, 2), (6, 6, 6)]
  ),
  bias=st.booleans(),
  causal=st.booleans(),
  valid=st.booleans(),
  ids=st.none() | st.tuples(*[st.lists(IDS, min_size=B * S)] * 2),
  rows=st.sampled_from([1, B]),
  data=st.data(),
)
def test_features_are_the_bias_and_the_mask(
  groups, bias, causal, valid, ids, rows, data
):
  """Scores by features alone, then softmax, are the plain kernel."""
  args, _ = problem(*groups, bias=bias, H=H, T=T, S=S)
  fields = dict(causal=causal)
  if valid:
    bits = data.draw(st.lists(st.booleans(), min_size=rows * S))
    fields['key_valid'] = np.reshape(bits[: rows * S], (rows, S))
  if ids is not None:
    cut = lambda x, n: np.resize(np.array(x, 'int32'), (rows, n))
    fields |= dict(q_segments=cut(ids[0], T), kv_segments=cut(ids[1], S))
  mask = masks.check(masks.Mask(**fields), (B,), H, T, S)
  args = {'key_bias': None} | args
  q, k, v = features.append(**args, mask=mask)
  rest = masks.Mask(causal=True) if causal else None
  o, _ = kernels.grouped(q, k, v, None, rest)
  alive = features.alive(mask, T, S)[:, :, None, None]
  want, want_alive = kernels.grouped(**args, mask=mask)
  o, want = (jnp.repeat(x, H // x.shape[2], 2) for x in (o, want))
  shape = (B, T, 1, 1)
  np.testing.assert_array_equal(
    jnp.broadcast_to(alive, shape), jnp.broadcast_to(want_alive, shape)
  )
  close(jnp.where(alive, o, 0), want)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_what_is_masked_weighs_nothing_in_half_precision(dtype):
  """Scores of a hundred, and every bit of 128 segments."""
  n = 128
  ids = np.arange(n)[None]
  mask = masks.check(masks.Mask(q_segments=ids), (1,), 1, n, n)
  q = jnp.full((1, n, 1, 4), 5.0, dtype)
  q, k, _ = features.append(q, -q, q, None, mask)
  p, _ = kernels.weights(q, k, None, None, 1)
  np.testing.assert_array_equal(p[0, 0], np.eye(n))


def test_no_gradient_but_of_the_bias():
  """Masks are constants, and a bias gets the gradient of its scores."""
  args, w = problem(3, 1, 1, bias=True, H=3, T=5, S=5, V=3)
  mask = masks.check(
    masks.Mask(key_valid=np.arange(5)[None] != 2), (2,), 3, 5, 5
  )

  def by_features(args):
    return (kernels.grouped(*features.append(**args, mask=mask))[0] * w).sum()

  plain = lambda args: (kernels.grouped(**args, mask=mask)[0] * w).sum()
  jax.tree.map(close, jax.grad(by_features)(args), jax.grad(plain)(args))


def test_literal_masks_agree_on_rows_without_keys():
  rng = np.random.default_rng(2)
  for seed in range(20):
    rng = np.random.default_rng(seed)
    mask = masks.Mask(
      causal=bool(seed % 2),
      key_valid=rng.random((2, S)) < 0.4,
      q_segments=rng.integers(0, 4, (2, T)),
      kv_segments=rng.integers(0, 4, (2, S)),
    )
    want = literal(mask, 2, 1, T, S).any(-1)[:, 0]
    np.testing.assert_array_equal(features.alive(mask, T, S), want)


def test_a_bias_may_be_infinite():
  """-inf hides a key from one head, and only from that."""
  args, _ = problem(2, 1, 1, bias=True, H=2, T=5, S=5)
  args['key_bias'][:, 1, 0] = -np.inf
  args['key_bias'][:, 3, 1] = -1e9
  want = kernels.grouped(**args)[0]
  close(kernels.grouped(*features.append(**args, mask=None))[0], want)


def test_padding_loses_against_the_smallest_scores_of_float16():
  """Keys that count have -39200, and padding 0 without its mask."""
  q = jnp.full((1, 2, 1, 8), 70.0, 'float16')
  k = jnp.array([-70.0, 0.0], 'float16')[None, :, None, None]
  k = jnp.broadcast_to(k, (1, 2, 1, 8))
  mask = masks.check(
    masks.Mask(key_valid=np.array([[True, False]])), (1,), 1, 2, 2
  )
  q, k, _ = features.append(q, k, k, None, mask)
  p, _ = kernels.weights(q, k, None, None, 1)
  np.testing.assert_array_equal(p[0, 0], [[1, 0], [1, 0]])
