# SPDX-License-Identifier: Apache-2.0
"""Reads the model, the parameters and the tokenizer of a finished run."""

from collections.abc import Mapping
import functools
import pathlib

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from collab import checks, model_json, models
from collab.data import sentencepieces, tokenizer
from collab.runtime import final_params, tree_table
from collab.training import sharding


def tokenizer_of(
  folder: str | pathlib.Path,
  text: str,
  fields: dict,
  meaning: model_json.Meaning,
  files: Mapping[str, bytes] = {},
) -> tokenizer.Tokenizer | sentencepieces.SentencePieces | None:
  """Makes the tokenizer of a model, None if it has none.

  Args:
    folder: folder of its files, for messages.
    text: text of its tokenizer.json, '' if there is none.
    fields: fields of models.build.
    meaning: model_json.Meaning of the model.
    files: {name: content} of others; Marian's are read if there is no text.

  Raises:
    ValueError: it is damaged, belongs to another model, or has ids beyond the
      model's table. A table may have more rows than ids, because some models
      pad it.
  """
  path = f'{folder}/tokenizer.json'
  if text:
    words = tokenizer.parse(text, path)
  elif files.keys() >= set(sentencepieces.FILES):
    path = f'{folder}/{sentencepieces.VOCABULARY}'
    words = sentencepieces.SentencePieces(files, folder)
  else:
    return None
  if words.vocab_size > fields['vocab_size']:
    raise ValueError(
      f'{path} has {words.vocab_size:,} ids, the model has '
      f'vocab_size={fields["vocab_size"]:,}.'
    )
  model_json.check_tokenizer(folder, meaning.tokenizer, words.fingerprint)
  if text and not meaning.tokenizer:
    logging.warning('%s: no record of its tokenizer to compare with.', folder)
  return words


def read(workdir: str, config: ConfigDict, mesh: Mesh | None = None) -> tuple:
  """Reads all fields of models.build, their Meaning, and a run's parameters.

  Args:
    workdir: workdir of the run.
    config: config of the run.
    mesh: mesh of `sharding.make_mesh`, over which the parameters are split; one
      device by default. They are those of the run's evaluation.

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
