# SPDX-License-Identifier: Apache-2.0
"""Trains tokenizers: byte-level BPE, which encodes any text, or whole words.

BPE makes every digit a token of its own, so that numbers can be copied and
regrouped.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
import re
import sys

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from collab import checks
from collab.data.tokenizer import SPECIAL, UNK, Tokenizer, load, parse, read
from collab.io import atomic, buckets, text_lines

SMALLEST = len(SPECIAL) + 256  # one token for each byte
LONGEST = 256  # characters; BPE learns from longer words in pieces
_LONG = re.compile(rf'\S{{{LONGEST}}}|\s{{{LONGEST}}}')


def train(
  lines: Iterable[str], vocab_size: int, path: str | Path, kind: str = 'bpe'
) -> Tokenizer:
  """Trains on lines of text and writes the tokenizer to a JSON file.

  The same lines give the same file, byte by byte. A small text may have fewer
  than vocab_size tokens to learn: look at `Tokenizer.vocab_size`.

  Args:
    lines: iterator of strings, in both languages.
    vocab_size: total number of ids, at least SMALLEST = 261.
    path: path of the file, which is written atomically.
    kind: 'bpe', or 'words': the most frequent words between blanks; all others
      are <unk>.

  Raises:
    ValueError: vocab_size is too small, there is no such kind or no text, or
      the file cannot be written.
  """
  checks.one_of('data.kind', kind, KINDS)
  why = f': one for each byte and {len(SPECIAL)} special ones'
  checks.at_least('data.vocab_size', vocab_size, SMALLEST, why)
  # disable=None hides the bar where standard error is not a terminal.
  lines = tqdm(lines, 'tokenizer', unit=' lines', delay=1, disable=None)
  empty = 'The tokenizer got no lines to train on.'
  lines = text_lines.at_least_one(lines, empty)
  rules, trainer, pieces = KINDS[kind](vocab_size)
  rules.train_from_iterator(
    (x for line in lines for x in pieces(line)), trainer
  )
  text = rules.to_str(pretty=True)
  _write(buckets.at(path), text)
  return Tokenizer(rules, text)


def _bpe(vocab_size):
  """Returns untrained rules, their trainer, and a line's texts to train on."""
  rules = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
  digits = pre_tokenizers.Digits(individual_digits=True)
  as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
  rules.pre_tokenizer = pre_tokenizers.Sequence([digits, as_bytes])
  rules.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(SPECIAL),
    initial_alphabet=as_bytes.alphabet(),
    show_progress=sys.stderr.isatty(),
  )
  return rules, trainer, _broken


def _broken(line):
  """Splits long words of a line, whose cost grows with the square of length."""
  line = f' {line}'
  ends = [found.end() for found in _LONG.finditer(line)]
  return [line[begin:end] for begin, end in pairwise([0, *ends, len(line)])]


def _words(vocab_size):
  rules = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIAL[UNK]))
  rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  trainer = trainers.WordLevelTrainer(
    vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False
  )
  return rules, trainer, _not_special


def _not_special(line):
  """Returns the words that get ids of their own, as one text."""
  return [' '.join(word for word in line.split() if word not in SPECIAL)]


KINDS = dict(bpe=_bpe, words=_words)


def prepare(
  workdir: str | Path,
  vocabulary: str,
  lines: Callable,
  vocab_size: int,
  kind: str = 'bpe',
) -> Tokenizer:
  """Returns the tokenizer of a run, and keeps it in the workdir.

  Args:
    workdir: if it has a tokenizer.json, that is used: of a run that is resumed,
      or of the one that `init_from` names.
    vocabulary: otherwise a tokenizer.json to copy, '' for none.
    lines: otherwise a function that starts an iterator of text to train on.
    vocab_size, kind: see `train`.
  """
  kept = buckets.at(workdir) / 'tokenizer.json'
  if kept.exists():
    return load(kept)
  if not vocabulary:
    return train(lines(), vocab_size, kept, kind)
  with checks.located('data.vocabulary'):
    text = read(vocabulary)
    found = parse(text, vocabulary)
  _write(kept, text)
  return found


def _write(path, text):
  """Writes a file atomically, and creates its folder if it is missing."""
  with checks.located(f'Cannot write the tokenizer to {path}', OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)
