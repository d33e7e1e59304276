# SPDX-License-Identifier: Apache-2.0
"""Batches of text or training data on which conversions measure inputs."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from collab import checks, model_json, models, tasks
from collab.convert import source as sources
from collab.data import examples
from collab.io import text_lines
from collab.runtime import workdir

TRAIN = 'train'  # reads the run's own data instead of a file


class Calibration(NamedTuple):
  """A model without scan, and batches for it.

  Attributes:
    model: model of models.build; an encoder that reads lines has no head.
    batches: list of dicts with few different shapes.
  """

  model: Any
  batches: list


def read(
  source: sources.Source,
  path: str | pathlib.Path,
  rows: int = 512,
  size: int = 32,
  length: int = 128,
  seed: int = 0,
) -> Calibration:
  """Reads batches from a text file, or from the training data of a run.

  Args:
    source: source.Source.
    path: path of a text file, plain or .gz, with one text a line; or 'train'.
    rows: number of texts, drawn without replacement if there are more.
    size: texts of a batch; a smaller last batch is dropped unless it is the
      only one.
    length: maximum number of tokens of a text.
    seed: seed of the drawing.

  Raises:
    ValueError: rows, length or seed is out of range, the text is empty, there
      is no tokenizer, or the model does not read text.
  """
  checks.at_least('rows', rows, 1)
  checks.at_least('length', length, 1)
  checks.at_least('seed', seed, 0)
  fields = source.model | dict(scan=False, remat='none')
  model = models.build(**fields)
  if path == TRAIN:
    return Calibration(model, _training(source, rows))
  if model.READS not in ('texts', 'stream'):
    raise ValueError(
      f'calibration={path}: a model that reads {model.READS} does not read '
      f"lines of text; '{TRAIN}' takes the training data of a run."
    )
  words = sources.words(source)
  texts = [line.strip() for line in text_lines.of_path(pathlib.Path(path))]
  texts = [text for text in texts if text]
  if not texts:
    raise ValueError(f'calibration={path} has no text.')
  chosen = np.random.default_rng(seed).permutation(len(texts))[:rows]
  texts = [texts[i] for i in chosen]
  length = min(length, model.longest)
  if model.READS == 'stream':
    batches = _stream(words, texts, size, length)
  else:
    # A run whose head does not use a pooler has none.
    fields |= dict(head='none', outputs=0, pooler='pooler' in source.params)
    batches = _rows(words, texts, size, length)
  return Calibration(models.build(**fields), batches)


def _rows(words, texts, size, length):
  """Batches texts of similar length, so that there is little padding."""
  rows = examples.encode([(text,) for text in texts], words, length)
  order = np.argsort(rows.lengths, kind='stable')
  return [
    examples.pad(rows, part, examples.width(rows, part, length))
    for part in _split(order, size)
  ]


def _stream(words, texts, size, length):
  """Concatenates the texts and cuts rows from them, without padding."""
  flat = [i for x in words.encode_batch(texts) for i in [*x, words.eos_id]]
  length = min(length, len(flat))
  n = len(flat) // length
  tokens = np.array(flat[: n * length], np.int32).reshape(n, length)
  return [dict(tokens=part) for part in _split(tokens, size)]


def _split(rows, size):
  """Splits rows into parts; drops a smaller last one unless it is all."""
  size = min(size, len(rows))
  return [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]


def _training(source, rows):
  """Returns batches of the run's data, from the folder that the user names.

  Somebody else may have written the workdir, so the paths that its config names
  are not trusted: nothing outside of it is read or written here. Only train.py
  uses these paths.
  """
  config = source.config
  if source.config.task.name in ('pretrained',) or not config.total_steps:
    raise ValueError(
      f'calibration={TRAIN}: {source.folder} has no training data; give a text '
      'file.'
    )
  workdir.check_links(source.folder)
  data = config.data.copy_and_resolve_references()
  data.update({k: '' for k in ('folder', 'vocabulary') if k in data})
  if data.get('path') or data.get('files'):
    if not source.data:
      raise ValueError(
        f'{source.folder} was trained on local files: to use them here, give '
        'their folder as --data=DIR.'
      )
    data.path = source.data
  task = tasks.build(
    **config.task,
    data=data,
    workdir=source.folder,
    seed=config.seed,
    shard=(0, 1),
  )
  model_json.check(source.folder, task.meaning)
  steps = math.ceil(rows / config.data.batch_size)
  return [task.batch(step) for step in range(steps)]
