# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a checkpoint's folder, without torch.

The folder has config.json, tokenizer.json, and model.safetensors or
model.safetensors.index.json with the files that it lists. Everything is read as
data: nothing is imported, executed or unpickled.
"""

from collections.abc import Iterable, Mapping
import json
import pathlib
import re
import shlex

import numpy as np
import safetensors
import safetensors.numpy

from collab import checks
from collab.data import tokenizer as tokenizers
from collab.io import atomic, json_text
from collab.runtime import tree_table

CONFIG, TOKENIZER = 'config.json', 'tokenizer.json'
WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'
# Files that go with a model: tokenizers, processors, the modules of Sentence
# Transformers (1_Pooling/config.json), cards and licences.
COMPANIONS = str.split(
  '*.json *.jinja *.md *.model *.spm *.txt LICENSE* NOTICE* [0-9]_*/*'
)


def read_tokenizer(folder: pathlib.Path) -> str:
  """Reads the text of tokenizer.json, which has to be JSON; '' if missing."""
  path = folder / TOKENIZER
  if not path.exists():
    return ''
  json_text.read_object(path)
  return tokenizers.read(path)


def read_companions(folder: pathlib.Path) -> dict[str, bytes]:
  """Reads {path in the folder: content} of the files that go with a model."""
  paths = {path for glob in COMPANIONS for path in folder.glob(glob)}
  files = {str(x.relative_to(folder)): x for x in paths if x.is_file()}
  return {
    name: files[name].read_bytes()
    for name in sorted(files.keys() - {CONFIG, TOKENIZER})
    if not name.endswith('.index.json')  # of weights
  }


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads {name: array} from a folder's one file or from its shards.

  Raises:
    ValueError: the file is missing or damaged, or the shards do not match the
      index.
  """
  if (folder / WEIGHTS).exists():
    return read_file(folder / WEIGHTS)
  index = folder / INDEX
  if not index.exists():
    raise ValueError(_nothing(folder))
  shards = json_text.read_object(index).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise ValueError(f'{index} has no weight_map of names and files.')
  for shard in shards.values():
    if not (isinstance(shard, str) and re.fullmatch(r'[\w-][\w.-]*', shard)):
      raise ValueError(
        f'{index} lists {shard!r}, expected the name of a file beside it.'
      )
  found = {}
  for shard in sorted(set(shards.values())):
    path = folder / shard
    if not path.exists():
      raise ValueError(f'{path} is missing; {INDEX} lists it.')
    tensors = read_file(path)
    listed = {name for name, place in shards.items() if place == shard}
    if listed != tensors.keys():
      raise ValueError(
        f'{path} does not hold what {INDEX} says: '
        f'{join_sorted(listed ^ tensors.keys())}.'
      )
    found |= tensors
  return found


def write(
  folder: str | pathlib.Path,
  config: dict,
  tensors: dict,
  tokenizer: str,
  files: Mapping[str, bytes],
) -> None:
  """Writes a new folder with one file of tensors, atomically.

  Args:
    folder: folder that does not exist yet.
    config: content of config.json.
    tensors: {name: array}.
    tokenizer: text of tokenizer.json, '' for none.
    files: {path in the folder: content} of others.

  Raises:
    ValueError: the folder exists.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise ValueError(f'{folder} exists; expected the name of a new folder.')
  folder.parent.mkdir(parents=True, exist_ok=True)
  with atomic.beside(folder) as new:
    new.mkdir()
    atomic.write_text(new / CONFIG, json.dumps(config, indent=2) + '\n')
    if tokenizer:
      atomic.write_text(new / TOKENIZER, tokenizer)
    write_files(new, files)
    # safetensors needs C order, which transposed arrays do not have.
    tensors = {k: np.asarray(x, order='C') for k, x in tensors.items()}
    safetensors.numpy.save_file(tensors, new / WEIGHTS, dict(format='pt'))
    new.rename(folder)


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes {path in the folder: content}."""
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def join_sorted(names: Iterable[str]) -> str:
  """Joins sorted names to a text, abbreviating a long list."""
  return tree_table.join_names(sorted(names), most=20)


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads {name: array} from one safetensors file."""
  # NumPy lacks 8-bit floats, an AttributeError.
  kinds = safetensors.SafetensorError, OSError, KeyError, AttributeError
  with checks.located(f'{path} cannot be read', kinds):
    return safetensors.numpy.load_file(path)


def _nothing(folder):
  """Makes the message for a folder without safetensors."""
  pickles = sorted(x.name for x in folder.glob('pytorch_model*.bin'))
  if not pickles:
    return f'{folder} has neither {WEIGHTS} nor {INDEX}.'
  load = 't.AutoModel.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])'
  code = shlex.quote(f'import sys, transformers as t; {load}')
  return (
    f'{folder} has {pickles[0]}, a pickle, and no {WEIGHTS}. Loading a pickle '
    'may run any code that is in it: only if you trust it, convert it where '
    f'torch and transformers are installed: python -c {code} '
    f'{shlex.quote(str(folder))} NEW, with the class that config.json names in '
    'place of AutoModel.'
  )
