# SPDX-License-Identifier: Apache-2.0
"""Methods that compress an encoder, against the encoder that they get."""

import jax
import numpy as np

from collab import accounting, models
from collab.inference.run import Run
from experiments import compressions
from tests.convert.test_reparametrize import calibrated, given
from tests.experiments.test_elsewhere import apply_to


def test_heads_without_slopes_leave():
  """One that adds nothing, and one that always adds the same."""
  model, params, batch, _ = given('bert_Model')
  params = jax.tree.map(np.copy, params)
  first, second = (
    params['encoder'][f'layer_{i}']['self_attention'] for i in range(2)
  )
  first['out']['kernel'][1] = 0
  second['value']['kernel'][:, 2] = 0
  built = models.build(**model)
  whole = accounting.attention_parameters(built)
  seen = calibrated(model, batch)
  method = compressions.heads_pruned_by_gradient
  less, new = method(
    compressions.Given(Run(built, params), model, seen, [], whole * 4 // 6)
  )
  assert less['attention']['num_heads'] == 2
  want = apply_to(model, params, batch)
  for got, x in zip(apply_to(less, new, batch), want, strict=True):
    np.testing.assert_allclose(got, x, atol=1e-4)
