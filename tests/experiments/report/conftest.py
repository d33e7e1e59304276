# SPDX-License-Identifier: Apache-2.0
"""A run that pages are made of."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import models, tasks
from collab.io import atomic
from collab.runtime import checkpoint, workdir
from collab.training import logs
from collab.training import summary as ending
from collab.training.experiment import Experiment
from tests import tiny


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
  """The workdir of a run, as train.py leaves it; nothing was learnt."""
  corpus = tiny.write_corpus(tmp_path_factory.mktemp('corpus'))
  folder = tmp_path_factory.mktemp('runs') / 'tiny'
  config = tiny.config(corpus, total_steps=2, checkpoint__average=1)
  workdir.claim(config, folder)
  task = tasks.build(
    **config.task, data=config.data, workdir=folder, seed=0, shard=(0, 1)
  )
  fields = config.model.to_dict() | task.model_kwargs
  atomic.save_json(folder / 'model.json', fields)
  model, inputs = models.build(**fields), [task.batch(0)]
  made = Experiment(config, folder, task, model, None, None, None)
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes
  )
  checkpoints = checkpoint.Checkpoints(folder, keep=1)
  checkpoints.save(2, dict(params=params))
  checkpoints.close()
  writer = logs.Writer(folder)
  for step, loss in ((1, 3.0), (2, 2.5)):
    row = {'train/loss': loss, 'train/lr': step / 1000}
    writer.write(step, row | dict(tokens_per_second=7.5))
    writer.write(step, {'val/perplexity': 10 * loss, 'val/words': 9})
  writer.close()
  scores = dict(perplexity=25.0, bleu=12.345, bleu_signature='nrefs:1')
  ending.end(made, params, 2, scores, {})
  return folder


@pytest.fixture
def run(trained, tmp_path):
  """A copy that a test may spoil."""
  return shutil.copytree(trained, tmp_path / 'tiny')
