# SPDX-License-Identifier: Apache-2.0
"""Reads the models that conversions start from: workdirs or checkpoints."""

import pathlib
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np
from safetensors import numpy as safetensors

from collab import checks, load_run, model_json
from collab.convert.huggingface import checkpoints, folders, gguf_file, hub
from collab.data.sentencepieces import SentencePieces
from collab.data.tokenizer import Tokenizer
from collab.io import atomic, buckets, json_text, node_files
from collab.runtime import workdir as workdirs
from collab.training import sharding

ORIGIN = 'huggingface'  # folder in a workdir with what only an export needs
FILES = 'files'  # folder in it with the files beside the model
NO_WORDS = '{} has no tokenizer.json, nor source.spm with those beside it.'
# Tasks that a checkpoint can do without training, by the kind of its model.
TASKS = dict(
  decoder=dict(name='lm'),
  encoder_decoder=dict(name='wmt14', beam=4, alpha=0.6),
)


class Source(NamedTuple):
  """A trained model.

  Attributes:
    folder: folder that it was read from.
    config: ConfigDict of the run; for a checkpoint, the minimal one of
      `_config`.
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays.
    meaning: model_json.Meaning of the model.
    tokenizer: text of tokenizer.json, '' if there is none.
    pretrained: checkpoints.Pretrained that it came from, or None.
    data: folder of its training data, given by the user; see `calibration`.
  """

  folder: str
  config: ConfigDict
  model: dict
  params: dict
  meaning: model_json.Meaning
  tokenizer: str
  pretrained: checkpoints.Pretrained | None
  data: str = ''


def read(
  folder: str | pathlib.Path,
  allow: tuple[str, ...] = (),
  data: str = '',
  mesh: Mesh | None = None,
) -> Source:
  """Reads a workdir or a checkpoint.

  Args:
    folder: has run.json (a workdir) or config.json (a checkpoint); or a file
      of llama.cpp, .gguf; or a name of the Hugging Face Hub, org/model.
    allow: see `checkpoints.load`.
    data: see `Source`.
    mesh: where the parameters of a workdir stay, instead of in NumPy arrays.

  Raises:
    ValueError: it is neither, or it is incomplete.
  """
  place = folder
  if hub.is_name(pathlib.Path(folder)):
    place = hub.download(str(folder))
  path = buckets.at(place)
  if (path / 'run.json').exists():
    if allow:
      raise ValueError(f'{folder} is a workdir; --allow is for checkpoints.')
    return _read_run(path, mesh)._replace(data=data)
  path = node_files.fetched(place)
  if path.suffix != gguf_file.SUFFIX and not (path / 'config.json').exists():
    raise ValueError(
      f'{folder} is neither a workdir (it has no run.json) nor a checkpoint of '
      'Transformers (it has no config.json).'
    )
  found = checkpoints.load(path, allow)
  model, params, tokenizer = found.model, found.params, found.tokenizer
  config, meaning = _config(model), checkpoints.meaning(found)
  return Source(str(folder), config, model, params, meaning, tokenizer, found)


def _read_run(path, mesh):
  config = workdirs.claim(None, path)
  # Split over the devices, if only on the way to this machine's memory.
  split = mesh or sharding.make_mesh(fsdp=jax.device_count())
  model, meaning, params = load_run.read(path, config, split)
  if not mesh:
    params = jax.tree.map(np.asarray, params)
  tokenizer, found = folders.read_tokenizer(path), None
  if (path / ORIGIN).exists():
    kept = node_files.fetched(path / ORIGIN)
    origin = json_text.read_object(
      kept / 'origin.json', config=dict, names=dict
    )
    origin = dict(dtype='float32') | origin  # older ones have no dtype
    with checks.located(kept / 'origin.json'):
      checks.one_of('dtype', origin['dtype'], checkpoints.DTYPES)
    workdirs.check_links(kept)
    found = checkpoints.Pretrained(
      model=model,
      params=params,
      tokenizer=tokenizer,
      rest=folders.read_file(kept / 'rest.safetensors'),
      config=origin['config'],
      names=origin['names'],
      dtype=origin['dtype'],
      files=folders.read_companions(kept / FILES),
    )
  return Source(str(path), config, model, params, meaning, tokenizer, found)


def write_origin(
  folder: pathlib.Path, pretrained: checkpoints.Pretrained
) -> None:
  """Stores in a workdir what an export needs besides the model.

  Args:
    folder: the workdir.
    pretrained: checkpoints.Pretrained that the model came from.
  """
  folder = folder / ORIGIN
  folder.mkdir()
  rest = {k: np.ascontiguousarray(x) for k, x in pretrained.rest.items()}
  (folder / 'rest.safetensors').write_bytes(safetensors.save(rest))
  folders.write_files(folder / FILES, pretrained.files)
  origin = dict(config=pretrained.config, names=dict(pretrained.names))
  origin |= dict(family=pretrained.config['model_type'], dtype=pretrained.dtype)
  atomic.save_json(folder / 'origin.json', origin)


def words(found: Source) -> Tokenizer | SentencePieces:
  """Returns the tokenizer of a Source; a ValueError if none fits."""
  if words := tokenizer(found):
    return words
  raise ValueError(NO_WORDS.format(found.folder))


def tokenizer(found: Source) -> Tokenizer | SentencePieces | None:
  """Returns the tokenizer of a Source, None if it has none."""
  return load_run.tokenizer_of(
    found.folder,
    found.tokenizer,
    found.model,
    found.meaning,
    found.pretrained.files if found.pretrained else {},
  )


def _config(model):
  """Makes the config of a workdir that was converted from a checkpoint.

  The config suffices for init_from of other runs, for generating text and for
  translating.
  """
  task = TASKS.get(model['name'])
  # A classifier does no such task, nor what has a tokenizer for each language.
  if model.get('head', 'lm') != 'lm' or model.get('source_vocab_size'):
    task = None
  return ConfigDict(
    dict(
      task=task or dict(name='pretrained'),
      data={},
      model=model,
      optim=dict(ema=0.0),
      checkpoint=dict(keep=1, best='', average=1, final='last'),
      total_steps=0,
      seed=0,
      init_from='',
    )
  )
