# SPDX-License-Identifier: Apache-2.0
"""FLOPs and saved bytes of functions whose costs are known."""

import jax
import jax.numpy as jnp
import pytest

from collab import attention
from collab.accounting import trace
from collab.attention.target import Target, lowering_for

A = jax.ShapeDtypeStruct((5, 7), jnp.float32)
B = jax.ShapeDtypeStruct((7, 11), jnp.float32)
ONE = 2 * 5 * 7 * 11


@pytest.mark.parametrize(
  'function, times',
  [
    (lambda a, b: a @ b, 1),
    (lambda a, b: jnp.einsum('ik,kj->ji', a, b), 1),
    (jax.jit(lambda a, b: jnp.tanh(a @ b)), 1),
    (jax.checkpoint(lambda a, b: a @ b), 1),
    (lambda a, b: jax.vmap(lambda row: row @ b)(a), 1),
    (lambda a, b: jax.lax.map(lambda _: a @ b, jnp.arange(3)), 3),
    (
      lambda a, b: jax.lax.cond(
        a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ (b.T @ b)
      ),
      1,
    ),
    (jax.grad(lambda a, b: ((a @ b) ** 2).sum(), (0, 1)), 3),
    (lambda a, b: a[:, :1] * b[:1], 0),
  ],
)  # fmt: skip
def test_flops(function, times):
  assert trace.flops(function, A, B) == times * ONE


def test_no_kernel_hides_its_products():
  """What an accelerator runs in one call counts as on any other machine."""
  layer = attention.build('mha', num_heads=3, dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct((2, 128, 24), jnp.float32)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  want = trace.flops(layer.apply, params, x)
  with lowering_for(Target('tpu')):
    assert 'pallas_call' in str(jax.make_jaxpr(layer.apply)(params, x))
    assert trace.flops(layer.apply, params, x) == want


def test_batches():
  x = jax.ShapeDtypeStruct((2, 3, 5, 7), jnp.float32)
  y = jax.ShapeDtypeStruct((2, 3, 11, 7), jnp.float32)
  product = lambda x, y: jnp.einsum('bhtk,bhsk->bhts', x, y)
  assert trace.flops(product, x, y) == 2 * 3 * ONE


def test_saved_bytes():
  """Products keep their arguments, which are there; exp keeps its result."""
  assert trace.saved_bytes(lambda a, b: a @ b, A, B) == 0
  assert trace.saved_bytes(lambda a, b: jnp.exp(a @ b), A, B) == 4 * 5 * 11
  twice = lambda a, b: jnp.exp(jnp.exp(a @ b))
  assert trace.saved_bytes(twice, A, B) == 2 * 4 * 5 * 11
  assert trace.saved_bytes(jax.checkpoint(twice), A, B) == 0
