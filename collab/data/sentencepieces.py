# SPDX-License-Identifier: Apache-2.0
"""Marian's tokenizer: two SentencePiece models and one vocabulary.

The package `sentencepiece` segments text, because only it reads its models
exactly: normalisation, unknown characters and ties are its own.
"""

from collections.abc import Iterable, Mapping
import hashlib
import importlib.util
import re

import numpy as np

from collab import checks
from collab.io import json_text

SOURCE, TARGET, VOCABULARY = FILES = 'source.spm', 'target.spm', 'vocab.json'
SPECIAL = '<pad>', '</s>', '<unk>'
_LANGUAGE = re.compile('>>.*?<<')  # a text may begin with its target language


class SentencePieces:
  """Converts between text and ids, by files of a checkpoint.

  It has those attributes and methods of tokenizer.Tokenizer that translation
  uses. Translations begin with <pad>.

  Args:
    files: {name: content} with FILES.
    folder: folder that has them, for messages.

  Raises:
    ValueError: a file is damaged, or the package is missing.
  """

  ours = False
  mask_id = None

  def __init__(self, files: Mapping[str, bytes], folder: str):
    if not importlib.util.find_spec('sentencepiece'):
      raise ValueError(
        f"{folder}/{SOURCE} needs sentencepiece: pip install 'collab[convert]'"
      )
    from sentencepiece import SentencePieceProcessor

    place = f'{folder}/{VOCABULARY}'
    names = dict.fromkeys(SPECIAL, int)
    self._ids = json_text.parse_object(files[VOCABULARY], place, **names)
    if sorted(self._ids.values()) != list(range(len(self._ids))):
      raise ValueError(f'{place} is damaged: its ids are not 0, 1, 2, ...')
    rules = {}
    for name in (SOURCE, TARGET):
      rules[name] = SentencePieceProcessor()
      with checks.located(f'{folder}/{name} is damaged', RuntimeError):
        rules[name].LoadFromSerializedProto(files[name])
    self._source, self._target = rules.values()
    self._names = {i: piece for piece, i in self._ids.items()}
    self.vocab_size = len(self._ids)
    self.dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
    self.pad_id, self.eos_id, self._unk_id = map(self._ids.get, SPECIAL)
    self.bos_id = self.start_id = self.pad_id
    self.special = {self.pad_id, self.eos_id, self._unk_id}
    hashed = hashlib.sha256(b''.join(files[name] for name in FILES))
    self.fingerprint = hashed.hexdigest()[:16]

  def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
    """Encodes each source text, without </s>."""
    return [self._encode(self._source, text) for text in texts]

  def encode_targets(self, texts: Iterable[str]) -> list[list[int]]:
    """Encodes each translation, without </s>."""
    return [self._encode(self._target, text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes a translation's ids to text; special ids are left out."""
    ids = [i for i in map(int, ids) if i not in self.special]
    # The model may have more ids than the vocabulary.
    pieces = [self._names[i] for i in ids if i in self._names]
    return self._target.DecodePieces(pieces).replace('▁', ' ').strip()

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """Returns the names of ids in the vocabulary."""
    return [self._names[int(i)] for i in ids]

  def spelled(self, ids: Iterable[int]) -> list[str]:
    """Returns the text of each id alone; special ones have their names."""
    return [piece.replace('▁', ' ') for piece in self.pieces(ids)]

  def _encode(self, rules, text):
    code = _LANGUAGE.match(text)
    first = [code[0]] if code else []
    pieces = rules.EncodeAsPieces(text[code.end() :] if code else text)
    return [self._ids.get(x, self._unk_id) for x in first + pieces]
