# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs of a step, and the speed and memory of a row."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import models
from collab.runtime import devices
from collab.training import speed

B, T, V, D, F, L = 3, 5, 29, 8, 13, 3


def made(model, loss):
  batch = dict(tokens=np.zeros((B, T), np.int32))
  task = types.SimpleNamespace(loss=loss, batch=lambda step: batch)
  return types.SimpleNamespace(task=task, model=model)


def test_a_product_counts_three_times():
  """Once forward, and backward once for each of its factors."""

  def loss(model, params, batch, rngs):
    x = jnp.ones((*batch['tokens'].shape, D))
    return jnp.tanh(x @ params).sum(), jnp.float32(1), {}

  params = jax.ShapeDtypeStruct((D, F), jnp.float32)
  found = speed.model_flops(made(None, loss), params)
  assert found == 3 * 2 * B * T * D * F


def lm_loss(model, params, batch, rngs):
  logits = model.apply({'params': params}, batch, rngs=rngs)
  return logits.sum(), jnp.float32(1), {}


def flops(**fields):
  attention = dict(name='mha', num_heads=2)
  sizes = dict(dim=D, mlp_dim=F, num_layers=L, vocab_size=V, max_length=T)
  model = models.build('decoder', attention=attention, **sizes, **fields)
  example = models.zeros(model.example())
  params = jax.eval_shape(model.init, jax.random.key(0), example)['params']
  return speed.model_flops(made(model, lm_loss), params)


def test_a_model():
  """6 FLOPs a token and element of a matrix, and two products of T x T."""
  matrices = L * (4 * D * D + 2 * D * F) + V * D
  scores = L * 2 * T * D
  assert flops() == 6 * B * T * (matrices + scores)


@pytest.mark.parametrize('fields', [dict(remat='full'), dict(scan=True)])
def test_what_is_computed_again_does_not_count(fields):
  assert flops(**fields) == flops()


def test_row(monkeypatch):
  monkeypatch.setattr(devices, 'peak_bytes', lambda: dict(some_peak_bytes=9))
  peak = devices.Peak(1e6, 'known')
  meter = speed.Meter('tokens', 100, flops=5000, peak=peak)
  assert meter.row(4, 0.5, 0.125) == {
    'tokens_per_second': 800.0,
    'mfu': pytest.approx(4 * 5000 / 0.5 / 1e6),
    'input_wait': 0.25,
    'some_peak_bytes': 9,
  }
  unknown = meter._replace(peak=devices.Peak(None, 'not known'))
  assert 'mfu' not in unknown.row(4, 0.5, 0.0)


def test_used():
  rows = [
    dict(step=1, mfu=0.001, resident_peak_bytes=5e6),  # with the compilation
    dict(step=2, mfu=0.25, resident_peak_bytes=7e6),
    dict(step=2),
    dict(step=3, mfu=0.5, resident_peak_bytes=7e6),
  ]
  assert speed.used(rows) == {
    'peak resident set of the process': '7 MB',
    'MFU': '0.25, median of the log',
  }
  rows[-1] |= {'time/seconds': 1.0, 'input_wait': 0.5}
  rows.append({'step': 4, 'time/seconds': 9.0, 'input_wait': 0.0})
  assert speed.used(rows)['waits for input'] == '5.00% of 10 s'
  assert speed.used([dict(step=1)]) == speed.used([]) == {}
