# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE: any Unicode text to ids and back without loss; or words.

Every digit is a token of its own, so that numbers can be copied and regrouped.
A space goes before every sentence and is taken off again, so that a word has
the same ids at the beginning of a sentence as within.
"""

import hashlib
from itertools import pairwise
import json
import os
from pathlib import Path
import re
import sys

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from collab.io import atomic, json_text, text_lines

SPECIAL = ('<pad>', '<bos>', '<eos>', '<unk>', '<mask>')
PAD, BOS, EOS, UNK, MASK = range(5)
OURS = dict(pad='<pad>', bos='<bos>', eos='<eos>', unk='<unk>', mask='<mask>')
SMALLEST = len(SPECIAL) + 256  # a token for each byte
LONGEST = 256  # characters of a word that BPE learns from in one piece
_LONG = re.compile(rf'\S{{{LONGEST}}}|\s{{{LONGEST}}}')


# What the special tokens are called elsewhere: BERT's, ALBERT's, RoBERTa's,
# GPT-2's and Marian's names. GPT-2 has one for all, none to mask with, none
# unknown; Marian's translations begin with <pad>, and it has none to mask with.
ELSEWHERE = (
  dict(pad='[PAD]', bos='[CLS]', eos='[SEP]', unk='[UNK]', mask='[MASK]'),
  dict(pad='<pad>', bos='[CLS]', eos='[SEP]', unk='<unk>', mask='[MASK]'),
  dict(pad='<pad>', bos='<s>', eos='</s>', unk='<unk>', mask='<mask>'),
  dict.fromkeys(('pad', 'bos', 'eos'), '<|endoftext|>'),
  dict(pad='<pad>', bos='<pad>', eos='</s>', unk='<unk>'),
)


class Tokenizer:
  """Text <-> ids.

  Attributes:
    vocab_size: number of ids, special ones included.
    pad_id, bos_id, eos_id, mask_id: 0, 1, 2, 4 of ours; mask_id is None where
      there is none. No text encodes to them, not even '<eos>': where words
      have ids, it is an unknown word, as '<unk>' is.
    between: ids between two texts of a row: <eos>, of RoBERTa twice.
    special: ids of all special tokens.
    ours: whether it is of this project, so that any text comes back.
    fingerprint: a hash of the vocabulary and rules, see `fingerprint`.
  """

  def __init__(self, rules: tokenizers.Tokenizer, text, names=OURS):
    rules.encode_special_tokens = True  # '<eos>' in a text is just text
    rules.no_padding()
    rules.no_truncation()
    self._rules = rules
    self.ours = names is OURS
    self._blank = ' ' if self.ours else ''  # goes before every text
    ids = {role: rules.token_to_id(name) for role, name in names.items()}
    self.pad_id, self.bos_id, self.eos_id = ids['pad'], ids['bos'], ids['eos']
    self.mask_id = ids.get('mask')
    self.between = (self.eos_id,) * (1 + (names.get('bos') == '<s>'))
    added = rules.get_added_tokens_decoder().items()
    self.special = {i for i, token in added if token.special} | {*ids.values()}
    self._unk_id = ids.get('unk')
    self._never = self.special - {self._unk_id}
    self.vocab_size = rules.get_vocab_size()
    self.fingerprint = fingerprint(text)

  def encode_batch(self, texts) -> list[list[int]]:
    """Ids of each text, without <bos> and <eos>."""
    batch = self._rules.encode_batch_fast(
      [f'{self._blank}{text}' for text in texts], add_special_tokens=False
    )
    return [self._of_text(encoding.ids) for encoding in batch]

  def encode(self, text) -> list[int]:
    """Ids of a text, without <bos> and <eos>."""
    return self.encode_batch([text])[0]

  def encode_with_offsets(self, texts):
    """(ids, their (start, end) in the characters) of each text.

    A word's token has the blank before it too. Several tokens may be bytes of
    the same character.
    """
    batch = self._rules.encode_batch(
      [f'{self._blank}{text}' for text in texts], add_special_tokens=False
    )
    n = len(self._blank)
    return [
      (
        self._of_text(found.ids),
        [(max(start - n, 0), end - n) for start, end in found.offsets],
      )
      for found in batch
    ]

  def _of_text(self, ids):
    """Ids as they are, but for words that look like special tokens: <unk>."""
    if self._never.isdisjoint(ids):
      return ids
    if self._unk_id is None:
      raise ValueError(
        'A text has a special token of the tokenizer, which has none for the '
        'unknown.'
      )
    return [self._unk_id if i in self._never else i for i in ids]

  def decode(self, ids) -> str:
    """The text of ids; special ones are left out.

    Ids that are no whole UTF-8 text, as a model may say, give U+FFFD in places.
    """
    ids = [int(i) for i in ids if int(i) not in self.special]
    return self._rules.decode(ids).removeprefix(self._blank)


def train(lines, vocab_size, path, kind='bpe') -> Tokenizer:
  """Trains on lines of text and writes the tokenizer to a JSON file.

  The same lines give the same file, byte by byte. A small text may have fewer
  than vocab_size tokens to learn: look at `Tokenizer.vocab_size`.

  Args:
    lines: iterator of strings, of both languages.
    vocab_size: ids to have in all, at least SMALLEST = 261.
    path: file to write; it is there whole or not at all.
    kind: 'bpe', or 'words': the most frequent of what blanks separate, all
      others being <unk>.

  Raises:
    ValueError: vocab_size too small, no such kind, no text, or the file cannot
      be written.
  """
  if kind not in KINDS:
    raise ValueError(f'No tokenizer {kind!r}; there are {", ".join(KINDS)}.')
  if vocab_size < SMALLEST:
    raise ValueError(
      f'vocab_size is {vocab_size}, expected at least {SMALLEST}: one for each '
      f'byte and {len(SPECIAL)} special ones.'
    )
  # disable=None: no bar where standard error is not a terminal.
  lines = tqdm(lines, 'tokenizer', unit=' lines', delay=1, disable=None)
  empty = 'The tokenizer got no lines to train on.'
  lines = text_lines.at_least_one(lines, empty)
  rules, trainer, pieces = KINDS[kind](vocab_size)
  rules.train_from_iterator(
    (x for line in lines for x in pieces(line)), trainer
  )
  text = rules.to_str(pretty=True)
  _write(Path(path), text)
  return Tokenizer(rules, text)


def _bpe(vocab_size):
  """Untrained rules, what trains them, and the texts to train on of a line."""
  rules = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
  rules.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  rules.decoder = decoders.ByteLevel()
  return (
    rules,
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=list(SPECIAL),
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=sys.stderr.isatty(),
    ),
    _broken,
  )


def _broken(line):
  """A line in pieces without longer words, which cost the square of it."""
  line = f' {line}'
  ends = [found.end() for found in _LONG.finditer(line)]
  return [line[begin:end] for begin, end in pairwise([0, *ends, len(line)])]


def _words(vocab_size):
  rules = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIAL[UNK]))
  rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return (
    rules,
    trainers.WordLevelTrainer(
      vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False
    ),
    _not_special,
  )


def _not_special(line):
  """The words that get ids of their own, as one text."""
  return [' '.join(word for word in line.split() if word not in SPECIAL)]


KINDS = dict(bpe=_bpe, words=_words)


def prepare(workdir, vocabulary, lines, vocab_size, kind='bpe') -> Tokenizer:
  """The tokenizer of a run, kept in its workdir.

  Args:
    workdir: whose tokenizer.json is used if it is there: of a run that goes on,
      or of the one that `init_from` names.
    vocabulary: else a tokenizer.json to copy, '' for none.
    lines: else a function that starts an iterator of the text to train on.
    vocab_size, kind: see `train`.
  """
  kept = os.path.join(workdir, 'tokenizer.json')
  if os.path.exists(kept):
    return load(kept)
  if vocabulary:
    load(vocabulary)  # refuses what is none
    _write(Path(kept), read(vocabulary))
    return load(kept)
  return train(lines(), vocab_size, kept, kind)


def load(path) -> Tokenizer:
  """Reads what `train` wrote, or a tokenizer.json of one of ELSEWHERE's.

  Raises:
    ValueError: no such file, damaged, or another kind of tokenizer.
  """
  return parse(read(path), path)


def read(path) -> str:
  """The text of a tokenizer's file; a ValueError if there is none."""
  if not Path(path).exists():
    raise ValueError(f'There is no tokenizer file {path}.')
  return text_lines.whole(Path(path))


def fingerprint(text) -> str:
  """A hash of what a tokenizer's file says, however it is laid out.

  Of the file and not of what the library writes, which changes with its
  version: a model keeps the fingerprint for years.
  """
  content = json.dumps(json_text.parse(text), sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def parse(text, path) -> Tokenizer:
  """The tokenizer of a file's text. It is data: nothing in it is executed."""
  try:
    rules = tokenizers.Tokenizer.from_str(text)
    content = json_text.parse(text)
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(
      f'{path} is no tokenizer file, or damaged: {str(error).strip()}'
    ) from error
  for kind in ('ByteLevel', 'Metaspace'):
    before, after = (
      kind in json.dumps(content.get(part))
      for part in ('pre_tokenizer', 'decoder')
    )
    if before and not after:
      raise ValueError(
        f'{path} is damaged: its pre_tokenizer has {kind}, which its decoder '
        'does not undo.'
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


def _write(path, text):
  """Writes a file whole or not at all."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.beside(path) as new:
      new.write_text(text, 'utf-8')
      os.replace(new, path)
  except OSError as error:
    raise ValueError(
      f'Cannot write the tokenizer to {path}: {error}'
    ) from error
