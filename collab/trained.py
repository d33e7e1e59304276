# SPDX-License-Identifier: Apache-2.0
"""A finished run, to be used."""

from collab import models
from collab.data import tokenizer
from collab.training import checkpoint
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
  model = models.build(**workdirs.read_model(workdir))
  checkpoints = checkpoint.Checkpoints(
    workdir, config.checkpoint.keep, config.checkpoint.best
  )
  try:
    abstract = checkpoints.abstract()
    params = checkpoint.final_params(config, checkpoints, abstract)
  finally:
    checkpoints.close()
  return model, params, words, config
