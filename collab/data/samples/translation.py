# SPDX-License-Identifier: Apache-2.0
"""The sample of translation: English-German pairs, made by Babel (CLDR).

No text is shipped and nothing is downloaded. The same value (a date, an amount,
a name ...) is formatted twice, by CLDR's patterns for `en` and `de`. One to
four of a kind make a sentence by CLDR's patterns for lists ("and", "or"). The
pairs are a pure function of the code and Babel's version.

The splits are disjoint: the checksum of a pair's number, date or time decides
its split; where there is none, that of the English sentence. So no sentence,
number, date or time of the test is in training. Every name of the test
(territory, language, script, currency, unit, month, weekday) is in training, in
other sentences: a name that was never seen cannot be translated.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
import functools
import hashlib
from itertools import chain
from pathlib import Path
import random
import re
from typing import NamedTuple

import babel
from babel.lists import format_list

from collab.data import splits
from collab.data.samples import localisation as items


class Pair(NamedTuple):
  """One example, and what decides its split.

  Attributes:
    source, target: English and German.
    category: a key of SHARES.
    values: its numbers, dates and times, as strings.
  """

  source: str
  target: str
  category: str
  values: tuple[str, ...]


def _split_of(values: Iterable[str]) -> str | None:
  """The split that all values are of, or None if they are of several."""
  found = set(map(splits.by_checksum, values))
  return found.pop() if len(found) == 1 else None


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
def generate() -> dict[str, tuple[Pair, ...]]:
  """All pairs by split: 14,000, 500 and 500, shuffled; takes a second."""
  made, seen = {}, set()
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
    made[split] = tuple(pairs)
  return made


def _sentence(rng, split, category, item, count):
  """A list of `count` different items of a split; None if it is of another."""
  drawn = {}
  while len(drawn) < count:
    pair, values = item(rng)
    if not values or _split_of(values) == split:
      drawn[pair] = values
  english, german = zip(*drawn, strict=True)
  style = rng.choice(('standard', 'or'))
  source = format_list(english, style, 'en')
  target = format_list(german, style, 'de')
  values = tuple(chain.from_iterable(drawn.values()))
  if _split_of(values or (source,)) != split:
    return None
  return Pair(source, target, category, values)


def fingerprint() -> str:
  """A hash that changes with what makes the sample: this code or Babel."""
  files = __file__, items.__file__, splits.__file__
  text = b''.join(Path(file).read_bytes() for file in files)
  text += babel.__version__.encode()
  return hashlib.sha256(text).hexdigest()[:16]


def template(source: str) -> str:
  """A sentence with 0 for its numbers and X for its capitalised words."""
  return re.sub(r'[^\W\d]*[A-Z]\w*', 'X', re.sub(r'\d+', '0', source))


def lookup(pairs: Iterable[tuple[str, str]]) -> Callable:
  """The baseline that answers with the target of the nearest training sentence.

  The nearest has the same `template` or, if no sentence has it, the most
  similar one; among these it is the most similar sentence, among equals the
  first. The similarity of two sets of words a, b is 2 |a & b| / (|a| + |b|).

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
      key = max(templates, key=lambda one: _similarity(templates[one], wanted))
    return max(groups[key], key=lambda entry: _similarity(entry[0], words))[1]

  return translate


def _similarity(a, b):
  return (a & b).total() / max(a.total() + b.total(), 1)
