# SPDX-License-Identifier: Apache-2.0
"""What the tests of models share: small models with random parameters."""

import functools

from flax.core import freeze
import jax
import jax.numpy as jnp
import numpy as np

from collab import attention

V, D, H = 37, 12, 4
FIELDS = {  # of the variants that need some
  'gqa': dict(kv_heads=2),
  'collab': dict(shared_dim=5),
  'mla': dict(latent_dim=5),
  'gla': dict(latent_dim=6),
  'gta': dict(kv_heads=2),
  'mfa': dict(query_dim=5),
  'mfa_kr': dict(query_dim=5, head_width=4),
  'linformer': dict(length=7, projected_length=3),
}
ATTENTION = {
  name: freeze(dict(name=name, num_heads=H) | FIELDS.get(name, {}))
  for name in attention.names()
}  # frozen, so that a model is hashable


def shapes(model, batch, **options):
  """The tree of parameters, as shapes."""
  init = functools.partial(model.init, **options)
  return jax.eval_shape(init, jax.random.key(0), batch)['params']


def parameters(model, batch):
  """Random everywhere: at their initial 0 and 1, biases and scales hide."""
  leaves, tree = jax.tree.flatten(shapes(model, batch))
  rng = np.random.default_rng(1)
  return tree.unflatten(
    [
      jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype) + (x.ndim == 1) * 0.5
      for x in leaves
    ]
  )


@functools.partial(jax.jit, static_argnums=0, static_argnames='method')
def apply(model, params, batch, key=None, method=None):
  """The model's outputs, with dropout if there is a key."""
  rngs = {} if key is None else {'dropout': key}
  return model.apply({'params': params}, batch, rngs=rngs, method=method)


def close(got, want, tolerance=1e-4):
  np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)
