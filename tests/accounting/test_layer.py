# SPDX-License-Identifier: Apache-2.0
"""Costs of a layer against formulas, XLA's own count, and real buffers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.accounting import layer
from tests.few import few

D, H, T = 48, 4, 96
d = D // H
FIELDS = {
  'gqa': dict(kv_heads=2),
  'collab': dict(shared_dim=20),
  'mla': dict(latent_dim=10),
  'gla': dict(latent_dim=20, kv_heads=2),
  'gta': dict(kv_heads=2),
  'mfa': dict(query_dim=20, head_width=14),
  'mfa_kr': dict(query_dim=20, head_width=14),
  'linformer': dict(length=T, projected_length=10),
}
VARIANTS = {
  name: dict(name=name, num_heads=H) | FIELDS.get(name, {})
  for name in attention.names()
}
# Products of the paper's formulas, in halves of a FLOP: a token, a pair.
FORWARD = {
  'mha': (4 * D * D, 2 * D),
  'gqa': (2 * D * D + 2 * D * 2 * d, 2 * D),
  'mqa': (2 * D * D + 2 * D * d, 2 * D),
  'skv': (3 * D * D, 2 * D),
  'el': (2 * D * D, 2 * D),
  'collab': (2 * D * D + 2 * D * 20 + D * H, H * 20 + D),
  'sha': (D * D + 3 * D * d, 2 * d),
  'mhe_add': (D * D + 3 * D * d + H * d, d + H * (d + 1)),
  'mhe_mul': (D * D + 3 * D * d, 2 * D),
  'mla': (2 * D * D + D * 10 + 2 * 10 * D, 2 * H * 10),
  'gla': (2 * D * D + D * 20 + 2 * 10 * D, 2 * H * 10),
  'gta': (2 * D * D + D * 2 * d + D * d // 2, 2 * D),
  'mfa': (D * 20 + 20 * H * 14 + 2 * D * 14 + H * 14 * D, 2 * H * 14),
  'mfa_kr': (
    D * 20 + 20 * H * 14 + D * 14 + H * 14 * 14 + H * 14 * D,
    2 * H * 14,
  ),
  'tpa': (2 * D * D + 2 * D * 2 * (H + d) + 2 * 2 * D, 2 * D),
  'linformer': (4 * D * D + 2 * 10 * D + 2 * 10 * D, 0),
}

ROPE = {name: dict(rope={}) for name in VARIANTS if name != 'linformer'}
ROPE['collab'] |= dict(shared_dim=24)
ROPE['mla'] |= dict(rope_dim=6)
ROPE['gla'] |= dict(rope_dim=6)
# The products that rotation changes; the others are those of FORWARD.
ROTATED = {
  'collab': (2 * D * D + 2 * D * 24, H * 24 + D),  # no bias of the keys
  'mhe_add': (D * D + 3 * D * d, 3 * D),  # twice as wide scores
  'mhe_mul': (D * D + 3 * D * d, 3 * D),
  'mla': (2 * D * D + 30 * D + 6 * D * (H + 1), H * (2 * 10 + 6)),
  'gla': (2 * D * D + 40 * D + 6 * D * (H + 1), H * (2 * 10 + 6)),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_forward(name):
  token, pair = FORWARD[name]
  want = 2 * (token * T + pair * T * T)
  assert layer.of(VARIANTS[name], D, T).forward == want


@pytest.mark.parametrize('name', [x for x in VARIANTS if x != 'linformer'])
def test_decoding(name):
  """A token's share of the forward pass; the cache as its arrays are."""
  cost = layer.of(VARIANTS[name], D, T, causal=True)
  token, pair = FORWARD[name]
  if name == 'mhe_add':  # one query does not pay for weighted values
    pair = 2 * D
  if name == 'tpa':  # makes the heads of all tokens in every step
    token, pair = token - 2 * 2 * D, pair + 2 * 2 * D
  assert cost.decode == 2 * (token + pair * T)
  module = attention.build(**VARIANTS[name], decode=True)
  x = jnp.zeros((1, T, D))
  cache = jax.eval_shape(module.init, jax.random.key(0), x)['cache']['past']
  held = jax.tree.leaves(cache.replace(index=()))
  assert cost.cache == sum(x.size * x.dtype.itemsize for x in held)
  assert cost.prefill >= T * 2 * token


@few(ROPE, ['collab', 'mhe_add', 'mla', 'tpa'], 'name')
def test_under_rotation(name):
  """Turning vectors is no product; what it does to a variant's form is."""
  fields = VARIANTS[name] | ROPE[name]
  token, pair = (FORWARD | ROTATED)[name]
  assert layer.polynomial(fields, D) == (2 * token, 2 * pair)
  cost = layer.of(fields, D, T, causal=True)
  if name == 'tpa':  # as without
    token, pair = token - 2 * 2 * D, pair + 2 * 2 * D
  assert cost.decode == 2 * (token + pair * T)
  assert cost.cache == 4 * T * attention.build(**fields).cache_size(D)


def test_a_longer_linformer_is_counted_with_its_own_parameters():
  fields = VARIANTS['linformer'] | dict(length=7)
  cost = layer.of(fields, D, T)
  assert cost.parameters == attention.build(**fields).count(D)
  assert cost.forward == layer.of(VARIANTS['linformer'], D, T).forward


@pytest.mark.parametrize('name', VARIANTS)
def test_as_xla_counts(name):
  """XLA adds what is no product: a few operations a score."""
  module, x = attention.build(**VARIANTS[name]), jnp.ones((1, T, D))
  params = module.init(jax.random.key(0), x)
  cost = layer.of(VARIANTS[name], D, T)
  loss = lambda params, x: module.apply(params, x).sum()
  # It counts both sides of a guard: products of all heads, two and seven.
  guard = (name == 'mhe_add') * 2 * T * T * D
  for function, ours, n in (
    (module.apply, cost.forward, 2),
    (jax.value_and_grad(loss, (0, 1)), cost.training, 7),
  ):
    theirs = jax.jit(function).lower(params, x).cost_analysis()['flops']
    scores = (1 if name == 'sha' else H) * T * T
    assert ours <= theirs <= ours + n * guard + 20 * scores + 100 * T * D


@few(
  [*((name, {}) for name in VARIANTS), *ROPE.items()],
  [(name, {}) for name in ('mha', 'collab', 'mhe_add', 'mla')],
  'name, rope',
)
def test_activations(name, rope):
  """The distinct buffers of a real backward pass, but for the arguments."""
  fields = VARIANTS[name] | rope
  module = attention.build(**fields, bias_init=jax.nn.initializers.normal())
  x = jax.random.normal(jax.random.key(1), (1, T, D))
  params = module.init(jax.random.key(0), x)['params']
  apply = lambda params, x: module.apply({'params': params}, x)
  forward = jax.jit(lambda params, x: jax.vjp(apply, params, x)[1])
  kept = jax.tree.leaves(forward(params, x))
  given = {np.ravel(x).tobytes() for x in jax.tree.leaves((params, x))}
  held = {x.unsafe_buffer_pointer(): np.ravel(x).tobytes() for x in kept}
  real = sum(len(data) for data in held.values() if data not in given)
  assert layer.of(fields, D, T).activations == pytest.approx(real, rel=0.02)


def test_causal_skips():
  of = functools.partial(layer.of, VARIANTS['mha'], D)
  long = 8192
  full, causal = of(long).forward, of(long, causal=True).forward
  assert causal < 0.6 * full


def test_cross():
  cost = layer.of(VARIANTS['mha'], D, T, cross=True)
  assert cost.forward == layer.of(VARIANTS['mha'], D, T).forward
  # The memory's keys and values are made once, not for a token.
  assert cost.decode == 2 * (2 * D * D + 2 * D * T)
  assert cost.prefill == cost.forward


@pytest.mark.parametrize('k, want', [(384, 154), (256, 341), (192, 576)])
def test_break_even_of_the_paper(k, want):
  fields = dict(name='collab', num_heads=12, shared_dim=k, bias='none')
  assert round(layer.break_even(fields, 768)) == want


def test_break_even():
  assert layer.break_even(VARIANTS['mha'], D) == 0
  for name in ('mqa', 'skv', 'el', 'sha', 'mhe_add', 'mhe_mul'):
    assert math.isinf(layer.break_even(VARIANTS[name], D))
  wide = dict(name='collab', num_heads=H, shared_dim=D)
  assert layer.break_even(wide, D) == 0  # content bias: never cheaper


def test_repeated():
  one = layer.of(VARIANTS['mha'], D, T)
  assert one.repeated(3).forward == 3 * one.forward
  assert one.repeated(3).parameters == one.parameters


def test_mha_to_compare_with_is_as_wide():
  fields = dict(name='mhe_mul', num_heads=7, qkv_features=35)  # 7 is not of 48
  mha = layer.of(layer.as_mha(fields), D, T)
  assert mha.forward == 2 * (4 * D * 35 * T + 2 * 35 * T * T)
  assert math.isinf(layer.break_even(fields, D))
