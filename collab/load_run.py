# SPDX-License-Identifier: Apache-2.0
"""Loads a finished run for inference: model, parameters, tokenizer, config."""

import functools
import pathlib

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from collab import checks, model_json, models
from collab.data import tokenizer
from collab.io import buckets
from collab.runtime import final_params, tree_table
from collab.runtime import workdir as workdirs
from collab.training import sharding


def load(workdir: str, task: str, mesh: Mesh | None = None) -> tuple:
  """Loads the model of a run of this task, with its evaluation's parameters.

  Args:
    workdir: workdir of the run.
    task: name of its task.
    mesh: mesh of `sharding.make_mesh`, over which the parameters are split; one
      device by default.

  Returns:
    model, params, Tokenizer, the run's config.

  Raises:
    ValueError: there is no run, it has another task, or its checkpoints are
      missing or damaged.
  """
  config = workdirs.claim(None, workdir)
  if config.task.name != task:
    raise ValueError(
      f'{workdir} is a run of {config.task.name}, expected {task}.'
    )
  path = buckets.at(workdir) / 'tokenizer.json'
  if not config.total_steps and not path.exists():
    raise ValueError(
      f'{path} is missing: the checkpoint that it was converted from has '
      'none, and its other files (source.spm, vocab.json) are not read.'
    )
  text = tokenizer.read(path)
  fields, meaning, params = read(workdir, config, mesh)
  words = tokenizer_of(workdir, text, fields, meaning)
  return models.build(**fields), params, words, config


def tokenizer_of(
  folder: str | pathlib.Path,
  text: str,
  fields: dict,
  meaning: model_json.Meaning,
) -> tokenizer.Tokenizer:
  """Makes the tokenizer of a model from the text of its tokenizer.json.

  Args:
    folder: folder of the two, for messages.
    text: text of tokenizer.json.
    fields: fields of models.build.
    meaning: model_json.Meaning of the model.

  Raises:
    ValueError: it is damaged, belongs to another model, or has ids beyond the
      model's table. A table may have more rows than ids, because some models
      pad it.
  """
  path = f'{folder}/tokenizer.json'
  words = tokenizer.parse(text, path)
  if words.vocab_size > fields['vocab_size']:
    raise ValueError(
      f'{path} has {words.vocab_size:,} ids, the model has '
      f'vocab_size={fields["vocab_size"]:,}.'
    )
  model_json.check_tokenizer(folder, meaning.tokenizer, words.fingerprint)
  if not meaning.tokenizer:
    logging.warning('%s: no record of its tokenizer to compare with.', folder)
  return words


def read(workdir: str, config: ConfigDict, mesh: Mesh | None = None) -> tuple:
  """Reads all fields of models.build, their Meaning, and a run's parameters.

  The parameters are those of the run's evaluation, placed as in `load`.

  Raises:
    ValueError: model.json or the checkpoints are missing or damaged, or they
      belong to different models.
  """
  fields, meaning = model_json.read(workdir)
  place = mesh and functools.partial(sharding.state_shardings, mesh)
  params = final_params.load(workdir, config, place)
  _check(workdir, fields, params)
  return fields, meaning, params


def _check(workdir, fields, params):
  """Refuses a checkpoint that does not fit the model."""
  # Flax raises any kind of exception.
  with checks.located(f'{workdir}/model.json is of no model', Exception):
    expected = tree_table.shapes(models.shapes(models.build(**fields)))
  if differences := tree_table.differences(expected, tree_table.shapes(params)):
    raise ValueError(
      f'{workdir}/model.json is not of the model in its checkpoints: '
      f'{differences}.'
    )
