# SPDX-License-Identifier: Apache-2.0
"""The samples of classification, made by Babel (CLDR).

A sentence lists names of countries or of languages. The label of two sentences,
an English and a German one, says how many names they have in common. So a model
has to learn words and to compare them; one that does not is at chance.

No English sentence of two names or more is in two splits: its checksum decides.
"""

import functools
import random

from babel import Locale
from babel.lists import format_list

from collab.data import splits
from collab.data.examples import Example, Parts
from collab.data.samples import localisation

DRAWS = dict(train=8000, val=400, test=400)  # examples, or groups of some
KINDS = dict(
  territories=localisation.TERRITORIES, languages=localisation.LANGUAGES
)
FAMILIES = ('da', 'de', 'nl', 'sv'), ('es', 'fr', 'it', 'pt')


def parts(form: str) -> Parts:
  """The sample of a form, a key of FORMS; the same on every machine."""
  readers = {split: functools.partial(_read, form, split) for split in DRAWS}
  return Parts(readers, {'': 'val'}, {'': 'test'}, {})


def _read(form, split):
  rng = random.Random(f'{form} {split}')
  for group in range(DRAWS[split]):
    for example in FORMS[form](rng, split):
      yield example._replace(group=group)


# Sentences --------------------------------------------------------------------


@functools.cache
def _name(kind, code, language):
  return ' '.join(getattr(Locale(language), kind)[code].split())


def _list(kind, codes, language):
  names = [_name(kind, code, language) for code in codes]
  return format_list(names, locale=language)


def _draw(rng, split, count):
  """A kind, `count` codes, their English sentence, codes that are not in it."""
  while True:
    kind = rng.choice(list(KINDS))
    codes = rng.sample(KINDS[kind], 2 * count)
    first, others = codes[:count], codes[count:]
    sentence = _list(kind, first, 'en')
    if splits.by_checksum(sentence) == split:
      return kind, first, sentence, others


def _compared(rng, split, count, common):
  """An English and a German sentence with `common` of `count` names."""
  kind, codes, first, others = _draw(rng, split, count)
  kept = rng.sample(codes, common) + others[common:]
  rng.shuffle(kept)
  return first, _list(kind, kept, 'de')


def _related(rng, split, relation):
  """Two sentences of two names, by the labels of `_relation`."""
  if relation < 2:
    return _compared(rng, split, 2, 2 - 2 * relation)
  kind, _, first, _ = _draw(rng, split, 2)
  (other,) = KINDS.keys() - {kind}
  return first, _list(other, rng.sample(KINDS[other], 2), 'de')


# Forms: each gives the Examples of one draw -----------------------------------


def _family(rng, split):
  """One sentence: Germanic (0) or Romance (1)?"""
  kind, codes, *_ = _draw(rng, split, 2)
  label = rng.randrange(2)
  yield Example((_list(kind, codes, rng.choice(FAMILIES[label])),), label)


def _same(rng, split):
  """Two sentences: the same names (1), or others, half of another kind (0)?"""
  label = rng.randrange(2)
  yield Example(_related(rng, split, 0 if label else rng.randint(1, 2)), label)


def _relation(rng, split):
  """Two sentences: same names (0), others (1), or of another kind (2)?"""
  label = rng.randrange(3)
  yield Example(_related(rng, split, label), label)


def _share(rng, split):
  """Two sentences of three names: 5 times the share in common."""
  common = rng.randrange(4)
  yield Example(_compared(rng, split, 3, common), 5 * common / 3)


def _choice(rng, split):
  """A sentence, its translation and another one: which is it?"""
  kind, codes, first, others = _draw(rng, split, 2)
  choices, label = [codes, others], rng.randrange(2)
  if label:
    choices.reverse()
  yield Example((first, *(_list(kind, c, 'de') for c in choices)), label)


def _answers(rng, split):
  """A sentence, and four names of which some are in it: which?"""
  kind, codes, first, others = _draw(rng, split, 2)
  for code in rng.sample(codes + others, 4):
    yield Example((first, _name(kind, code, 'de')), int(code in codes))


def _entities(rng, split):
  """A sentence and the translation of one of its names: of which?"""
  kind, codes, first, _ = _draw(rng, split, 3)
  sought = rng.choice(codes)
  gold = (_name(kind, sought, 'en'),)
  for code in codes:
    name = _name(kind, code, 'en')
    query = f'{name} = {_name(kind, sought, "de")}'
    yield Example((first, query), int(code == sought), extra=(name, gold))


# What the labels are called, where they are classes.
CLASSES = dict(
  family=('Germanic', 'Romance'),
  same=('other names', 'same names'),
  relation=('same names', 'other names', 'another kind'),
  answers=('absent', 'present'),
  entities=('another', 'this one'),
)
FORMS = dict(
  family=_family,
  same=_same,
  relation=_relation,
  share=_share,
  choice=_choice,
  answers=_answers,
  entities=_entities,
)
