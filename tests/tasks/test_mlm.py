# SPDX-License-Identifier: Apache-2.0
"""Masked tokens: which, what stands there, and that each row counts once."""

import jax.numpy as jnp
import numpy as np
import pytest

from collab.data.tokenizer import BOS, MASK
from collab.tasks import mlm
from configs import mlm as config
from tests import tiny

L, P = 41, 6


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  return build(tmp_path_factory.mktemp('run'))


def build(workdir, shard=(0, 1), seed=0, rate=0.15):
  data = config.get_config('sample').data
  data.update(row_length=L, batch_size=12, vocab_size=400)
  return mlm.build(
    data, workdir=str(workdir), seed=seed, shard=shard, rate=rate
  )


def test_masks(task):
  """P places of a row; 80 % masked, 10 % another token, 10 % as it was."""
  seen, rows = [], 0
  text = np.asarray(task._streams['train'].tokens)
  for step in range(60):
    batch = task.batch(step)
    assert batch['positions'].shape == batch['labels'].shape == (12, P)
    assert (batch['tokens'][:, 0] == BOS).all()
    assert (np.diff(batch['positions'], axis=1) > 0).all()
    assert batch['positions'].min() >= 1
    assert batch['positions'].max() < L
    at = np.take_along_axis(batch['tokens'], batch['positions'], 1)
    seen.append(np.stack([at == MASK, at == batch['labels']]).reshape(2, -1))
    whole = batch['tokens'].copy()
    np.put_along_axis(whole, batch['positions'], batch['labels'], 1)
    rows += sum(
      any(
        (text[i : i + L - 1] == row[1:]).all()
        for i in range(0, len(text), L - 1)
      )
      for row in whole[:1]
    )
  assert rows == 60  # what is restored is a row of the text
  masked, same = np.concatenate(seen, 1).mean(1)
  assert masked == pytest.approx(0.8, abs=0.03)
  assert same == pytest.approx(0.1, abs=0.03)


def test_masks_change_with_the_step_alone(task, tmp_path):
  a, b = task.batch(5), task.batch(5)
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name])
  assert (a['positions'] != task.batch(6)['positions']).any()
  assert (a['positions'] != build(tmp_path, seed=1).batch(5)['positions']).any()


def test_shards_are_the_batch(task, tmp_path):
  """Masks included, which are drawn for the rows of all hosts."""
  parts = [build(tmp_path, shard=(i, 3)).batch(5) for i in range(3)]
  for name, x in task.batch(5).items():
    got = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize('rate', [0.001, 1.0])
def test_rate_error(rate, tmp_path):
  with pytest.raises(
    ValueError, match=rf'task.rate={rate} masks .* expected 1 to 40'
  ):
    build(tmp_path, rate=rate)


@pytest.mark.parametrize('wrong', [0.0, np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_score(task, wrong):
  class Model:
    def output_table(self, params):
      return params['embed']['embedding'], params['head']['bias']

    def apply(self, variables, batch, method, rngs=None):
      x = jnp.zeros((*batch['positions'].shape, 2))
      return x.at[0, 3].set(wrong)

  V = task.model_kwargs['vocab_size']
  params = dict(
    embed=dict(embedding=jnp.zeros((V, 2))), head=dict(bias=jnp.zeros(V))
  )
  scores, examples = tiny.evaluate(task, Model(), params, 'val')
  assert np.isfinite(scores.pop('accuracy_of_commonest'))
  assert set(scores) == {'nll', 'perplexity', 'accuracy'}
  assert bool(examples) == (wrong == 0)
  assert all(np.isfinite(x) == (wrong == 0) for x in scores.values())
