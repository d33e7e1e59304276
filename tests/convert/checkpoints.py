# SPDX-License-Identifier: Apache-2.0
"""What the tests of checkpoints share: those in golden/, and changed copies.

They are of make_golden.py, each with what its model makes of io.safetensors.
"""

import functools
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers

from collab.convert.huggingface import checkpoints

GOLDEN = pathlib.Path(__file__).parent / 'golden'
CASES = sorted(path.name for path in GOLDEN.iterdir())
WORDS = 'one', 'two', 'three', 'four', 'five'
EMBED = 'bert.embeddings.word_embeddings.weight'


@functools.cache
def load(case):
  return checkpoints.load(GOLDEN / case)


def read(folder):
  files = folder.glob('model*.safetensors')
  return {name: x for file in files for name, x in load_file(file).items()}


def identical(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert got[name].dtype == x.dtype, name
    assert got[name].shape == x.shape, name
    assert got[name].tobytes() == x.tobytes(), name


def variant(folder, case, change=lambda tensors: tensors, **config):
  """A copy of a case with other tensors, and other fields of its config."""
  folder.mkdir()
  old = json.loads((GOLDEN / case / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(old | config))
  save_file(change(read(GOLDEN / case)), folder / 'model.safetensors')
  return folder


def refuses(folder, case, config, words):
  """One line that names the file, what is wrong and what is not."""
  variant(folder, case, **config)
  with pytest.raises(ValueError, match=words) as info:
    checkpoints.load(folder)
  assert str(info.value).startswith(f'{folder / "config.json"}: ')
  assert '\n' not in str(info.value)


def renamed(old, new):
  return lambda tensors: {
    re.sub(old, new, name): x for name, x in tensors.items()
  }


def with_others(others):
  """Tensors and copies of some: {name of the copy: name}."""
  return lambda tensors: (
    tensors | {name: tensors[of].copy() for name, of in others.items()}
  )


def waves(N, D):
  """sin and cos of p / 10000^(2i/D), [N, D], for an even D."""
  angles = np.arange(N)[:, None] / 10000 ** (2 * np.arange(D // 2) / D)
  return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def with_words(folder, case='bert_Model', more=()):
  """A BERT whose tokenizer knows some words."""
  shutil.copytree(GOLDEN / case, folder)
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS, *more]
  rules = tokenizers.models.WordLevel(
    {word: i for i, word in enumerate(words)}, unk_token='[UNK]'
  )
  rules = tokenizers.Tokenizer(rules)
  rules.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  rules.save(str(folder / 'tokenizer.json'))
  return folder
