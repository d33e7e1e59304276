# SPDX-License-Identifier: Apache-2.0
"""The bundled sample: English-German localisation pairs, made by Babel (CLDR).

No text is shipped and nothing is downloaded: the same value (a date, an amount,
a name ...) is formatted twice, by CLDR's patterns for `en` and `de`, and one to
four of a kind make a sentence by CLDR's patterns for lists ("and", "or").
The pairs are a pure function of the code and Babel's version.

What is disjoint: the number, date or time of a pair decides by a checksum which
split it may stand in; where there is none, the English sentence does. So no
sentence, number, date or time of the test is in training, while every name
(territory, language, script, currency, unit, month, weekday) of the test is
there in other sentences: a name that nobody saw cannot be translated.
"""

from collections import Counter, defaultdict
import functools
import hashlib
from pathlib import Path
import random
import re
from typing import NamedTuple
import zlib

import babel
from babel.lists import format_list

from collab.data import localisation as items


class Pair(NamedTuple):
  """One example, and what the splits are made by.

  Attributes:
    source, target: English and German.
    category: a key of SHARES.
    values: its numbers, dates and times, as strings.
    names: codes of the names in it: training must have them all.
  """

  source: str
  target: str
  category: str
  values: tuple
  names: tuple


def split_of(values):
  """The split that all values are of, or None if they are of several."""
  parts = {zlib.crc32(value.encode()) % 10 for value in values}
  splits = {{0: 'test', 1: 'val'}.get(part, 'train') for part in parts}
  return splits.pop() if len(splits) == 1 else None


# Category -> what makes an item; how many of them a sentence lists; how many
# sentences are in val and in test. Training has TRAIN times as many.
SHARES = dict(
  date=(items.date, (1, 2), 80),
  time=(items.time, (1, 3), 50),
  amount=(items.amount, (1, 2), 80),
  unit=(items.unit, (1, 2), 80),
  relative=(items.relative, (1, 3), 60),
  territory=(items.territory, (2, 4), 50),
  language=(items.language, (1, 3), 60),
  currency=(items.currency, (2, 3), 40),
)
TRAIN = 28


@functools.cache
def generate():
  """All pairs: a dict of split ('train', 'val', 'test') to a tuple of Pairs.

  14,000, 500 and 500 pairs, in an order without pattern; takes a second.
  """
  splits, seen = {}, set()
  for split, times in dict(train=TRAIN, val=1, test=1).items():
    pairs = []
    for category, (item, counts, share) in SHARES.items():
      rng, room = random.Random(f'{split} {category}'), times * share
      while room:
        pair = _sentence(rng, split, category, item, rng.randint(*counts))
        if pair and pair.source not in seen:
          seen.add(pair.source)
          pairs.append(pair)
          room -= 1
    random.Random(split).shuffle(pairs)
    splits[split] = tuple(pairs)
  return splits


def _sentence(rng, split, category, item, count):
  """A list of `count` different items of a split; None if it is of another."""
  drawn = {}
  while len(drawn) < count:
    pair, values, names = item(rng)
    if not values or split_of(values) == split:
      drawn[pair] = values, names
  sides, style = zip(*drawn, strict=True), rng.choice(('standard', 'or'))
  source, target = (
    format_list(side, style, locale)
    for side, locale in zip(sides, ('en', 'de'), strict=True)
  )
  values, names = (
    tuple(x for xs in parts for x in xs)
    for parts in zip(*drawn.values(), strict=True)
  )
  if split_of(values or (source,)) != split:
    return None
  return Pair(source, target, category, values, names)


def fingerprint():
  """Changes when what makes the sample does: this code or Babel."""
  files = (Path(module) for module in (__file__, items.__file__))
  text = b''.join(file.read_bytes() for file in files)
  text += babel.__version__.encode()
  return hashlib.sha256(text).hexdigest()[:16]


def copy(source):
  """The baseline that translates nothing."""
  return source


def template(source):
  """The sentence with its numbers and its capitalised words left open."""
  return re.sub(r'[^\W\d]*[A-Z]\w*', 'X', re.sub(r'\d+', '0', source))


def lookup(pairs):
  """The baseline that finds the nearest training sentence and says its target.

  Nearest: of the same template (see `template`) or, if nobody has it, of the
  one most alike; of these the sentence most alike; of these the first. Alike:
  2 |a & b| / (|a| + |b|) for the words a and b.

  Args:
    pairs: (source, target) strings of training.

  Returns:
    A function of a source sentence.
  """
  groups = defaultdict(list)
  for source, target in pairs:
    groups[template(source)].append((Counter(source.split()), target))
  templates = {key: Counter(key.split()) for key in groups}

  def translate(source):
    key, words = template(source), Counter(source.split())
    if key not in groups:
      wanted = Counter(key.split())
      key = max(templates, key=lambda one: _alike(templates[one], wanted))
    return max(groups[key], key=lambda entry: _alike(entry[0], words))[1]

  return translate


def _alike(a, b):
  return (a & b).total() / max(a.total() + b.total(), 1)
