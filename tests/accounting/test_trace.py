# SPDX-License-Identifier: Apache-2.0
"""FLOPs and saved bytes of functions whose costs are known."""

import functools

import jax
from jax._src.cudnn import fused_attention_stablehlo as cudnn
import jax.numpy as jnp
import pytest

from collab.accounting import trace

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


@pytest.mark.parametrize('causal, parts', [(False, 1), (True, 2)])
def test_attention_of_cudnn(monkeypatch, causal, parts):
  """Two products forward, five backward; seen without a GPU that has it."""
  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91002)
  monkeypatch.setattr(cudnn, 'check_compute_capability', lambda least: True)
  B, T, S, H, K = 2, 128, 128, 3, 64
  q = jax.ShapeDtypeStruct((B, T, H, K), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((B, S, 1, K), jnp.bfloat16)
  attend = functools.partial(
    jax.nn.dot_product_attention, is_causal=causal, implementation='cudnn'
  )
  one = 2 * B * H * T * S * K // parts
  assert trace.flops(attend, q, k, k) == 2 * one
  mean = lambda *x: attend(*x).astype(jnp.float32).mean()
  assert trace.flops(jax.grad(mean, (0, 1, 2)), q, k, k) == 7 * one


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
