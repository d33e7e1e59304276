# SPDX-License-Identifier: Apache-2.0
"""A finished run, to be used."""

from collab import models
from collab.data import tokenizer
from collab.training import checkpoint, leaves
from collab.training import workdir as workdirs


def load(workdir, task):
  """The model of a run of this task and the parameters of its evaluation.

  Returns:
    model, params, Tokenizer, the run's config.

  Raises:
    ValueError: no run, one of another task, no checkpoint, or damaged ones.
  """
  config = workdirs.claim(None, workdir)
  if config.task.name != task:
    raise ValueError(
      f'{workdir} is a run of {config.task.name}, expected {task}.'
    )
  words = tokenizer.load(f'{workdir}/tokenizer.json')
  fields, params = read(workdir, config)
  return models.build(**fields), params, words, config


def read(workdir, config):
  """All fields of models.build, and the parameters of a run's evaluation.

  Raises:
    ValueError: model.json or the checkpoints are missing or damaged, or they
      are of two models.
  """
  fields = workdirs.read_model(workdir)
  checkpoints = checkpoint.Checkpoints(
    workdir, config.checkpoint.keep, config.checkpoint.best
  )
  try:
    abstract = checkpoints.abstract()
    _check(workdir, fields, abstract)
    params = checkpoint.final_params(config, checkpoints, abstract)
  finally:
    checkpoints.close()
  return fields, params


def _check(workdir, fields, abstract):
  """Refuses a checkpoint that is not of the model."""
  try:
    expected = leaves.shapes(models.shapes(models.build(**fields)))
  except Exception as e:  # Flax raises all kinds
    words = ' '.join(str(e).split())
    raise ValueError(f'{workdir}/model.json is of no model: {words}') from e
  if differences := leaves.differences(expected, leaves.shapes(abstract)):
    raise ValueError(
      f'{workdir}/model.json is not of the model in its checkpoints: '
      f'{differences}.'
    )
