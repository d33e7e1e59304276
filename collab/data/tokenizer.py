# SPDX-License-Identifier: Apache-2.0
"""Converts text to token ids and back, by our tokenizer.json or by others'.

Our tokenizers put a space before every text and remove it again, so that a word
has the same ids at the beginning of a sentence as within it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import functools
import hashlib
from itertools import islice
import json
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from collab import checks
from collab.io import buckets, json_text, text_lines

OURS = dict(pad='<pad>', bos='<bos>', eos='<eos>', unk='<unk>', mask='<mask>')
SPECIAL = tuple(OURS.values())
PAD, BOS, EOS, UNK, MASK = range(5)
CHUNK = 16_384  # texts that all cores encode at a time

# Names of the special tokens elsewhere: Gemma, BERT, ALBERT, RoBERTa, Llama 2
# and Mistral with and without padding, Llama 3, GPT-2 and Qwen, Marian. The
# first whose tokens are all there counts. So more tokens come before fewer, and
# Gemma, told by a token of chats, first: others' names are tags of HTML there.
# GPT-2 has one token for all purposes and neither <mask> nor <unk>. Marian has
# no <mask>, and its translations begin with <pad>.
ELSEWHERE = (
  {'chat': '<start_of_turn>'}
  | dict(pad='<pad>', bos='<bos>', eos='<eos>', unk='<unk>'),
  dict(pad='[PAD]', bos='[CLS]', eos='[SEP]', unk='[UNK]', mask='[MASK]'),
  dict(pad='<pad>', bos='[CLS]', eos='[SEP]', unk='<unk>', mask='[MASK]'),
  dict(pad='<pad>', bos='<s>', eos='</s>', unk='<unk>', mask='<mask>'),
  dict(pad='<pad>', bos='<s>', eos='</s>', unk='<unk>'),
  dict(pad='</s>', bos='<s>', eos='</s>', unk='<unk>'),
  dict(pad='<|end_of_text|>', bos='<|begin_of_text|>', eos='<|end_of_text|>'),
  dict.fromkeys(('pad', 'bos', 'eos'), '<|endoftext|>'),
  dict(pad='<pad>', bos='<pad>', eos='</s>', unk='<unk>'),
)
# What in a decoder undoes a pre-tokenizer.
UNDONE_BY = dict(ByteLevel=('ByteLevel',), Metaspace=('Metaspace', '▁'))


class Tokenizer:
  """Converts between text and ids.

  Attributes:
    vocab_size: number of ids, including the special ones.
    dtype: the NumPy type that holds ids, uint16 or uint32.
    pad_id, bos_id, eos_id, mask_id: 0, 1, 2, 4 in our tokenizers; mask_id is
      None without a mask token. No text encodes to these ids, not even '<eos>':
      a tokenizer of whole words encodes it as an unknown word.
    start_id: id before a text that is to be continued: <eos> in our tokenizers,
      because lines follow each other in training, and elsewhere <bos>.
    between: ids between two texts of a row: <eos>, for RoBERTa twice.
    special: ids of all special tokens.
    ours: whether this project made it, so that decoding restores any text.
    fingerprint: a hash of the vocabulary and rules, see `fingerprint`.
  """

  def __init__(
    self,
    rules: tokenizers.Tokenizer,
    text: str,
    names: Mapping[str, str] = OURS,
  ):
    rules.encode_special_tokens = True  # '<eos>' in a text is ordinary text
    rules.no_padding()
    rules.no_truncation()
    self._rules = rules
    self.ours = names is OURS
    self._blank = ' ' if self.ours else ''  # is put before every text
    ids = {role: rules.token_to_id(name) for role, name in names.items()}
    self.pad_id, self.bos_id, self.eos_id = ids['pad'], ids['bos'], ids['eos']
    self.start_id = self.eos_id if self.ours else self.bos_id
    self.mask_id = ids.get('mask')
    self.between = (self.eos_id,) * (1 + (names.get('bos') == '<s>'))
    added = rules.get_added_tokens_decoder().items()
    self.special = {i for i, token in added if token.special} | {*ids.values()}
    self._unk_id = ids.get('unk')
    self._never = self.special - {self._unk_id}
    self.vocab_size = rules.get_vocab_size()
    self.dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
    self.fingerprint = fingerprint(text)

  def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
    """Encodes each text, without <bos> and <eos>."""
    texts = [self._blank + text for text in texts]
    found = self._rules.encode_batch_fast(texts, add_special_tokens=False)
    return [self._of_text(encoding.ids) for encoding in found]

  def encode(self, text: str) -> list[int]:
    """Encodes a text, without <bos> and <eos>."""
    return self.encode_batch([text])[0]

  def encode_targets(self, texts: Iterable[str]) -> list[list[int]]:
    """Encodes translations; other languages have the same rules here."""
    return self.encode_batch(texts)

  def encode_with_offsets(
    self, texts: Iterable[str]
  ) -> list[tuple[list[int], np.ndarray]]:
    """Encodes each text as (ids, [start, end] in characters, int32 [T, 2]).

    The token of a word includes the blank before it. Several tokens may be
    bytes of the same character.
    """
    texts, n = [self._blank + text for text in texts], len(self._blank)
    found = self._rules.encode_batch(texts, add_special_tokens=False)
    places = [np.array(x.offsets, np.int32).reshape(-1, 2) - n for x in found]
    return [
      (self._of_text(encoding.ids), np.maximum(place, 0))
      for encoding, place in zip(found, places, strict=True)
    ]

  def _of_text(self, ids):
    """Replaces ids of words that look like special tokens by <unk>."""
    if self._never.isdisjoint(ids):
      return ids
    if self._unk_id is None:
      raise ValueError(
        'A text has a special token of the tokenizer, which has none for the '
        'unknown.'
      )
    return [self._unk_id if i in self._never else i for i in ids]

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes ids to text; special ids are left out.

    A model may give ids whose bytes are not valid UTF-8; they become U+FFFD.
    """
    ids = [int(i) for i in ids if int(i) not in self.special]
    return self._rules.decode(ids).removeprefix(self._blank)

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """Returns the names of ids in the vocabulary."""
    return [self._rules.id_to_token(int(i)) for i in ids]

  def spelled(self, ids: Iterable[int]) -> list[str]:
    """Returns the text of each id alone; special ones have their names."""
    decode = functools.partial(self._rules.decode, skip_special_tokens=False)
    return [decode([int(i)]) for i in ids]


def each(encode: Callable, texts: Iterable[str]) -> Iterator:
  """Yields what a method of a tokenizer gives for each text.

  Args:
    encode: `Tokenizer.encode_batch` or `Tokenizer.encode_with_offsets`.
    texts: any number of texts; CHUNK at a time are held in memory.
  """
  texts = iter(texts)
  while chunk := list(islice(texts, CHUNK)):
    yield from encode(chunk)


def load(path: str | Path) -> Tokenizer:
  """Reads a file that `train` wrote, or a tokenizer.json listed in ELSEWHERE.

  Raises:
    ValueError: no such file, damaged, or another kind of tokenizer.
  """
  return parse(read(path), path)


def read(path: str | Path) -> str:
  """Reads the text of a tokenizer's file; a ValueError if there is none."""
  if not buckets.at(path).exists():
    raise ValueError(f'There is no tokenizer file {path}.')
  return text_lines.whole(buckets.at(path))


def fingerprint(text: str) -> str:
  """Hashes the content of a tokenizer's file, independent of its formatting.

  The hash is that of the file, because a model keeps it for years, and what the
  library writes changes with the library's version.
  """
  content = json.dumps(json_text.parse(text), sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def parse(text: str, path: str | Path) -> Tokenizer:
  """Makes the tokenizer of a file's text, which is data and never executed."""
  # The library raises bare Exceptions.
  with checks.located(f'{path} is no tokenizer file, or damaged', Exception):
    rules = tokenizers.Tokenizer.from_str(text)
    content = json_text.parse(text)
  before, after = (
    json.dumps(content.get(part), ensure_ascii=False)
    for part in ('pre_tokenizer', 'decoder')
  )
  for kind, names in UNDONE_BY.items():
    if kind in before and not any(name in after for name in names):
      raise ValueError(
        f'{path} is damaged: its pre_tokenizer has {kind}, which its decoder '
        'does not undo.'
      )
  model = content['model']
  unknown = model.get('unk_token')
  whole_words = model.get('type') in ('WordPiece', 'WordLevel')
  if whole_words and unknown not in model['vocab']:
    raise ValueError(
      f'{path} is damaged: its vocabulary lacks its unknown token {unknown!r}.'
    )
  vocabulary = rules.get_vocab()
  if (ids := sorted(vocabulary.values())) != list(range(len(ids))):
    raise ValueError(f'{path} is damaged: its ids are not 0, 1, 2, ...')
  for names in ELSEWHERE:
    if vocabulary.keys() >= set(names.values()):
      return Tokenizer(rules, text, names)
  wanted = dict(zip(SPECIAL, range(len(SPECIAL)), strict=True))
  got = {token: vocabulary.get(token) for token in SPECIAL}
  letters = set(pre_tokenizers.ByteLevel.alphabet())
  if isinstance(rules.model, models.WordLevel):
    letters = set()
  if got != wanted or not letters <= vocabulary.keys():
    others = '; '.join(' '.join(sorted(set(x.values()))) for x in ELSEWHERE)
    raise ValueError(
      f'{path} is not a tokenizer of this project: expected the ids {wanted} '
      f'and a token for every byte, got {got}. Nor has it the special tokens '
      f'of one that we know: {others}.'
    )
  return Tokenizer(rules, text)
