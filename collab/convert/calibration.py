# SPDX-License-Identifier: Apache-2.0
"""Batches of text, images or training data that conversions look at."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from collab import checks, model_json, models, tasks
from collab.convert import source as sources
from collab.data import augment, examples
from collab.data.readers import encoded_images, parallel_files
from collab.data.readers.encoded_images import ENDINGS
from collab.io import json_text, text_lines
from collab.runtime import workdir

TOKENS = 4096  # of a batch of texts, at most, for its layers are all recorded
TRAIN = 'train'  # reads the run's own data instead of a file
PROCESSOR = 'preprocessor_config.json'  # of a checkpoint that reads images


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
  """Reads batches of what the model reads, or of its run's training data.

  Args:
    source: source.Source.
    path: path of a text file, plain or .gz, with one text a line; for a
      translator 'SOURCE,TARGET', two such files, or one .tsv of pairs; for a
      model of images a folder that has some at any depth; or 'train'.
    rows: number of texts, pairs or images, drawn without replacement if there
      are more.
    size: rows of a batch, fewer where they are so long that it would have more
      than TOKENS; a smaller last batch is dropped unless it is the only one.
    length: maximum number of tokens of a text.
    seed: seed of the drawing.

  Raises:
    ValueError: rows, length or seed is out of range, there is nothing to read,
      or no tokenizer or mean of images to read it by.
  """
  checks.at_least('rows', rows, 1)
  checks.at_least('length', length, 1)
  checks.at_least('seed', seed, 0)
  fields = source.model | dict(scan=False, remat='none')
  model = models.build(**fields)
  if path == TRAIN:
    return Calibration(model, _training(source, rows))
  if model.READS == 'images':
    every = pathlib.Path(path).rglob('*')
    found = sorted(x for x in every if x.suffix.lower() in ENDINGS)
    chosen = _draw(found, rows, seed, f'calibration={path} has no images')
    return Calibration(model, _images(source, chosen, size))
  words = sources.words(source)
  length = min(length, model.longest)
  size = max(1, min(size, TOKENS // length))
  if model.READS == 'pairs':
    files = [pathlib.Path(name) for name in str(path).split(',')]
    if len(files) > 2:
      raise ValueError(f'calibration={path}; expected SOURCE,TARGET or a .tsv.')
    pairs = [row[:2] for row in parallel_files.read(files, {})]
    pairs = _draw(pairs, rows, seed, f'calibration={path} has no pairs')
    return Calibration(model, _pairs(words, pairs, size, length))
  texts = [line.strip() for line in text_lines.of_path(pathlib.Path(path))]
  texts = [text for text in texts if text]
  texts = _draw(texts, rows, seed, f'calibration={path} has no text')
  if model.READS == 'stream':
    batches = _stream(words, texts, size, length)
  else:
    # A run whose head does not use a pooler has none.
    fields |= dict(head='none', outputs=0, pooler='pooler' in source.params)
    batches = _rows(words, texts, size, length)
  return Calibration(models.build(**fields), batches)


def _draw(every, rows, seed, nothing):
  """Draws some of a list; a ValueError with the message if it is empty."""
  if not every:
    raise ValueError(f'{nothing}.')
  chosen = np.random.default_rng(seed).permutation(len(every))[:rows]
  return [every[i] for i in chosen]


def _images(source, paths, size):
  """Reads images as in an evaluation, normalised as the model is used to."""
  side, channels = source.model['image_size'], source.model['channels']
  mean, std = _normalisation(source)
  batches = []
  for part in _split(paths, size):
    images = []
    for path in part:
      with checks.located(f'{path} does not decode', Exception):
        image = encoded_images.decode(path.read_bytes())
        image = image.convert(encoded_images.MODES[channels])
      images.append(augment.eval_picture(image, side, augment.Recipe()))
    images = np.stack(images).reshape(-1, side, side, channels)
    batches.append(dict(images=augment.normalize(images, mean, std)))
  return batches


def _normalisation(source):
  """Finds mean and standard deviation of the channels of a model's images."""
  if source.pretrained is None:
    return source.config.data.mean, source.config.data.std
  files = source.pretrained.files
  if PROCESSOR not in files:
    raise ValueError(
      f'{source.folder} has no {PROCESSOR}, which has the mean of its images.'
    )
  fields = json_text.parse_object(
    files[PROCESSOR], PROCESSOR, image_mean=list, image_std=list
  )
  return fields['image_mean'], fields['image_std']


def _pairs(words, pairs, size, length):
  """Batches pairs of similar length, each in a row of its own."""
  texts, translations = zip(*pairs, strict=True)
  ids = words.encode_batch(texts), words.encode_targets(translations)
  sides = dict(
    source=[[*x[: length - 1], words.eos_id] for x in ids[0]],
    target=[[words.bos_id, *x][:length] for x in ids[1]],
  )
  sides = {k: examples.collect((x, 0) for x in v) for k, v in sides.items()}
  order = np.argsort(sides['source'].lengths, kind='stable')
  batches = []
  for part in _split(order, size):
    batch = {}
    for side, rows in sides.items():
      found = examples.pad(rows, part, examples.width(rows, part, length))
      at = np.arange(found['tokens'].shape[1], dtype=np.int32)[None]
      real = (at < found['lengths'][:, None]).astype(np.int32)
      batch[f'{side}_segments'], batch[f'{side}_positions'] = real, at * real
      batch['source' if side == 'source' else 'target_inputs'] = found['tokens']
    batches.append(batch)
  return batches


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
  if not config.total_steps:  # of a checkpoint
    raise ValueError(
      f'calibration={TRAIN}: {source.folder} has no training data; give '
      'texts, pairs or images.'
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
