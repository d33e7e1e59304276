# SPDX-License-Identifier: Apache-2.0
"""What conversions start with: a run's workdir, or a checkpoint of others."""

import pathlib
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np
from safetensors import numpy as safetensors

from collab import load_run, model_json
from collab.convert.huggingface import checkpoints, folders
from collab.io import atomic, json_text
from collab.runtime import workdir as workdirs

ORIGIN = 'huggingface'  # folder in a workdir: what only an export needs
# What a checkpoint can do without any training, by the kind of its model.
TASKS = dict(
  decoder=dict(name='lm'),
  encoder_decoder=dict(name='wmt14', beam=4, alpha=0.6),
)


class Source(NamedTuple):
  """A trained model.

  Attributes:
    folder: that it was read from.
    config: ConfigDict of the run; of a checkpoint one that only says what it
      is, see `_config`.
    model: all fields of models.build.
    params: nested dict of float32 NumPy arrays.
    meaning: model_json.Meaning of the model.
    tokenizer: text of tokenizer.json, '' if there is none.
    pretrained: huggingface.Pretrained that it came from, or None.
    data: folder of its training data, as the user says; see `calibration`.
  """

  folder: str
  config: ConfigDict
  model: dict
  params: dict
  meaning: model_json.Meaning
  tokenizer: str
  pretrained: checkpoints.Pretrained | None
  data: str = ''


def read(folder, allow=(), data='') -> Source:
  """Reads a workdir or a checkpoint.

  Args:
    folder: has run.json (a workdir) or config.json (a checkpoint).
    allow: see `huggingface.load`.
    data: see `Source`.

  Raises:
    ValueError: it is neither, or not whole.
  """
  path = pathlib.Path(folder)
  if (path / 'run.json').exists():
    if allow:
      raise ValueError(f'{folder} is a workdir; --allow is for checkpoints.')
    return _of_run(path)._replace(data=data)
  if (path / 'config.json').exists():
    found = checkpoints.load(folder, allow)
    return Source(
      str(folder),
      _config(found.model),
      found.model,
      found.params,
      checkpoints.meaning(found),
      found.tokenizer,
      found,
    )
  raise ValueError(
    f'{folder} is neither a workdir (it has no run.json) nor a checkpoint of '
    'Transformers (it has no config.json).'
  )


def attention_places(model):
  """{field of the model: its value} of all its attentions; '' counts."""
  places = ('attention', 'decoder_attention', 'cross_attention')
  return {name: model[name] for name in places if name in model}


def _of_run(path):
  config = workdirs.claim(None, path)
  model, meaning, params = load_run.read(path, config)
  return Source(
    str(path),
    config,
    model,
    jax.tree.map(np.asarray, params),
    meaning,
    folders.read_tokenizer(path),
    _read_origin(path / ORIGIN, model, params),
  )


def words(found):
  """The tokenizer of a Source; a ValueError if it has none or another's."""
  if not found.tokenizer:
    raise ValueError(f'{found.folder} has no tokenizer.json.')
  return load_run.tokenizer_of(
    found.folder, found.tokenizer, found.model, found.meaning
  )


def _config(model):
  """The config of a workdir that no run of ours has made.

  It is enough to start other runs with, by init_from, to generate text and to
  translate.
  """
  return ConfigDict(
    dict(
      task=TASKS.get(model['name'], dict(name='pretrained')),
      data={},
      model=model,
      optim=dict(ema=0.0),
      checkpoint=dict(keep=1, best='', average=1, final='last'),
      total_steps=0,
      seed=0,
      init_from='',
    )
  )


def write_origin(folder, pretrained):
  """Keeps in a workdir what `huggingface.save` needs besides the parameters."""
  folder = pathlib.Path(folder) / ORIGIN
  folder.mkdir()
  rest = {k: np.ascontiguousarray(x) for k, x in pretrained.rest.items()}
  (folder / 'rest.safetensors').write_bytes(safetensors.save(rest))
  atomic.save_json(
    folder / 'origin.json',
    dict(
      family=pretrained.family,
      config=pretrained.config,
      names=dict(pretrained.names),
    ),
  )


def _read_origin(folder, model, params):
  if not folder.exists():
    return None
  kept = json_text.read_object(folder / 'origin.json')
  if missing := {'family', 'config', 'names'} - kept.keys():
    raise ValueError(f'{folder}/origin.json has no {", ".join(missing)}.')
  return checkpoints.Pretrained(
    family=kept['family'],
    model=model,
    params=jax.tree.map(np.asarray, params),
    config=kept['config'],
    tokenizer=folders.read_tokenizer(folder.parent),
    rest=folders.read_file(folder / 'rest.safetensors'),
    names=kept['names'],
  )
