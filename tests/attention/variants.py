# SPDX-License-Identifier: Apache-2.0
"""The variants as the tests build them, found by name; a prime on every axis.

A new file in `variants/` is tested without any change here, unless it has
fields without a default: then FIELDS says which values the tests use.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from collab import attention
from tests.attention import reference

B, H, S, T = 2, 3, 7, 11  # T is long enough for the shared-scores kernel
d, D, D_OUT, D_MEMORY, D_VALUES = 13, 19, 29, 31, 37

# What a variant needs; num_heads only where 3 heads would be too few.
FIELDS = {
  'gqa': dict(num_heads=6, kv_heads=3),
  'collab': dict(shared_dim=23),
  'mla': dict(latent_dim=5),  # absorbed everywhere
  'gla': dict(num_heads=6, latent_dim=15, kv_heads=3),  # likewise
  'gta': dict(num_heads=6, kv_heads=3),
  'mfa': dict(query_dim=17),
  'mfa_kr': dict(query_dim=17),
  'linformer': dict(length=T, projected_length=5),
}
# Linformer neither decodes nor takes most masks: its tests are its own.
NAMES = [name for name in attention.names() if name != 'linformer']
# More than one way to be a variant: id -> (name, fields).
MORE = {
  'collab_ragged': ('collab', dict(shared_dim=23, value_dims=(5, 0, 11))),
  'mha_narrow': ('mha', dict(key_features=51, scale=0.3)),
  'collab_shared': ('collab', dict(shared_dim=23, bias='shared')),
  'collab_none': ('collab', dict(shared_dim=5, bias='none')),
  'mla_wide': ('mla', dict(latent_dim=17)),  # absorbed in decoding only
  'gla_wide': ('gla', dict(num_heads=6, latent_dim=51, kv_heads=3)),  # likewise
  'gla_gated': (
    'gla',
    dict(num_heads=6, latent_dim=14, kv_heads=2, gate='elementwise'),
  ),
  'skv_groups': ('skv', dict(num_heads=6, kv_heads=2)),
  'mfa_wide': (
    'mfa',
    dict(query_dim=7, head_width=23, qkv_features=None),
  ),
  'mfa_kr_gated': ('mfa_kr', dict(query_dim=7, gate='head')),
  'tpa_one': ('tpa', dict(rank=1)),
}
CASES = {name: (name, FIELDS.get(name, {})) for name in NAMES}
CASES |= MORE
# Each takes another path through the core and the kernels.
QUICK = ('mha', 'collab', 'mhe_add')


def build(case, /, **fields):
  """The layer of a case, with biases that are not zero."""
  name, own = CASES[case]
  base = dict(
    num_heads=H,
    qkv_features=own.get('num_heads', H) * d,
    bias_init=jax.nn.initializers.normal(0.5),
  )
  return attention.build(name, **base | own | fields)


def width(case):
  """D of the case's inputs: EL's are its keys, so theirs is qkv_features."""
  return H * d if case == 'el' else D


def expected(case, params, x, y=None, z=None, mask=None, **fields):
  """What the paper's formula gives, in float64."""
  name, own = CASES[case]
  name, own = ('gqa', dict(kv_heads=1)) if name == 'mqa' else (name, own)
  own = {'num_heads': H} | own | fields
  wanted = ('num_heads', 'bias', 'offset', 'scale', 'gate')
  wanted += ('kv_heads',) if name in ('gqa', 'skv') else ()
  y = x if y is None else y
  z = y if z is None else z
  if 'value_dims' in own:
    params = reference.widened(params, own['value_dims'], d)
  own = {n: v for n, v in own.items() if n in wanted}
  return reference.attention(name, params, x, y, z, mask=mask, **own)


@functools.lru_cache
def params(case, memory=False, seed=0):
  """Those of the case for self-attention, or for inputs of three widths."""
  args = inputs(case) if memory else inputs(case)[:1]
  return drawn(build(case), *args, seed=seed)


def drawn(layer, *inputs, seed=0):
  """Parameters that show, of the shapes of init, which is not compiled.

  At their initial values biases, scales and embeddings hide.
  """
  shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)['params']
  rng = np.random.default_rng(seed)
  draw = lambda x: 0.25 * rng.normal(size=x.shape) + 0.5 * (x.ndim == 1)
  dtype = jnp.result_type(float)  # float64 where that is enabled
  return jax.tree.map(lambda x: draw(x).astype(dtype), shapes)


def empty_cache(layer, *inputs, **how):
  """The cache that init makes, as zeros, without what else it computes."""
  init = functools.partial(layer.clone(decode=True).init, **how)
  shapes = jax.eval_shape(init, jax.random.key(0), *inputs)['cache']
  zeros = lambda x: jnp.asarray(np.zeros(x.shape, x.dtype))
  return jax.tree.map(zeros, shapes)


def inputs(case, seed=1):
  """x [B, T, D], y [B, S, D'], z [B, S, D''] (no z where values are keys)."""
  rng = np.random.default_rng(seed)
  x = normal(rng, B, T, width(case))
  y = normal(rng, B, S, H * d if case == 'el' else D_MEMORY)
  if not build(case).separate_values:
    return x, y
  return x, y, normal(rng, B, S, D_VALUES)


def normal(rng, *shape):
  return rng.normal(size=shape).astype('float32')


def close(got, want, rel=1e-5):
  """Largest error within `rel` of the largest value: 1e-5 for a layer."""
  got = np.asarray(got, 'float64')
  want = np.asarray(want, 'float64')
  assert got.shape == want.shape
  assert np.isfinite(got).all()
  error, size = np.abs(got - want).max(), np.abs(want).max()
  assert error <= rel * size, f'{error:.2e} off in values up to {size:.2e}'
