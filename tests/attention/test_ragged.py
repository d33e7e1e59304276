# SPDX-License-Identifier: Apache-2.0
"""Values of several widths; test_variants has the rest, by `collab_ragged`."""

import jax
import numpy as np
import pytest

from collab import attention
from collab.attention import ragged
from tests.attention import variants as V
from tests.attention.variants import H, close, d

WIDTHS = (5, 0, 11)


def test_padding_is_zeros_and_comes_off_again():
  x = V.normal(np.random.default_rng(0), 2, 7, sum(WIDTHS))
  padded = np.asarray(ragged.pad(x, WIDTHS))
  assert padded.shape == (2, 7, 3, 11)
  for h, part in enumerate(np.split(x, np.cumsum(WIDTHS)[:-1], -1)):
    np.testing.assert_array_equal(padded[..., h, : WIDTHS[h]], part)
    assert not padded[..., h, WIDTHS[h] :].any()
  np.testing.assert_array_equal(ragged.join(padded, WIDTHS), x)


@pytest.mark.parametrize('case', ['mha', 'collab'])
def test_equal_widths_are_the_plain_layer(case):
  """Bit for bit."""
  plain, own = V.build(case), V.build(case, value_dims=(d,) * H)
  params, x = V.params(case), V.inputs(case)[0]
  flat = dict(params)
  for name, shape in dict(value=(V.D, -1), out=(-1, V.D)).items():
    kernel = params[name]['kernel'].reshape(shape)
    flat[name] = dict(kernel=kernel, bias=params[name]['bias'].reshape(-1))
  shapes = jax.eval_shape(own.init, jax.random.key(0), x)['params']
  assert jax.tree.map(np.shape, flat) == jax.tree.map(np.shape, shapes)

  mask = attention.Mask(causal=True)
  got, want = (
    layer.apply({'params': p}, x, mask=mask)
    for layer, p in ((own, flat), (plain, params))
  )
  np.testing.assert_array_equal(got, want)


def test_gates_weigh_whole_heads():
  """Heads that are shut add nothing: only the bias is left."""
  layer = V.build('collab_ragged', gate='head')
  x = V.inputs('collab_ragged')[0]
  params = V.drawn(layer, x)
  params['gate'] = jax.tree.map(lambda a: 0 * a, params['gate'])
  params['gate']['bias'] -= 1e3
  out = layer.apply({'params': params}, x)
  close(out, np.broadcast_to(params['out']['bias'], out.shape))
