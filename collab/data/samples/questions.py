# SPDX-License-Identifier: Apache-2.0
"""The bundled sample of span questions: facts on countries, made by Babel.

No text is shipped; facts come from CLDR, and prices are random. A paragraph
states facts of two kinds (currency, official languages, first day of the week,
city of the time zone, price of a ticket) on each of two countries, in any
order. A question asks for one kind of fact on one country, so a model that
knows only the kind is right half the time. In v2.0 one of the four facts is
left out, and a third of the questions ask for it. The sample is a function of
the code and of Babel's version.

The splits are disjoint: the checksum of a paragraph's two countries and two
kinds decides its split, so no two splits have paragraphs of the same countries
and kinds. A single fact occurs in many paragraphs of all splits, except prices,
which are drawn anew for each paragraph.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
import functools
import random
import re

from babel import Locale, core, languages, lists, numbers

from collab import checks
from collab.data import splits
from collab.data.readers.squad_files import VERSIONS, Question, Questions
from collab.data.samples.localisation import CURRENCIES, TERRITORIES

# {kind: (sentence, question)}.
WORDS = dict(
  currency=(
    'People in {place} pay in {value}.',
    'What do people in {place} pay in?',
  ),
  language=(
    'Officials in {place} write in {value}.',
    'What do officials in {place} write in?',
  ),
  week=(
    'The week in {place} starts on {value}.',
    'When does the week in {place} start?',
  ),
  clock=(
    'Clocks in {place} follow {value}.',
    'What do clocks in {place} follow?',
  ),
  ticket=(
    'A ticket to {place} costs {value}.',
    'What does a ticket to {place} cost?',
  ),
)
WITH_ARTICLE = ('NL', 'PH', 'US')
PARAGRAPHS = dict(train=6000, val=250, test=250)
EACH = 2  # number of questions on a paragraph
UNANSWERABLE = 1 / 3


def sample(version: str) -> Questions:
  """Makes the sample as 'v1.1' or 'v2.0'."""
  checks.one_of('data.version', version, VERSIONS)
  readers = {
    split: functools.partial(generate, version, split)
    for split in splits.SPLITS
  }
  return Questions('sample', readers)


@functools.cache
def facts() -> dict[str, dict[str, str]]:
  """Returns {kind: {country: fact}} for all kinds except tickets."""
  english = Locale('en')
  found = {kind: {} for kind in WORDS if kind != 'ticket'}
  for code in TERRITORIES:
    currency, *more = numbers.get_territory_currencies(code)
    if not more:
      found['currency'][code] = numbers.get_currency_name(currency, 2, 'en')
    codes = languages.get_official_languages(code)
    names = [english.languages.get(c, '') for c in codes]
    if 1 <= len(names) <= 2 and all(names):
      found['language'][code] = lists.format_list(names, locale='en')
    day = Locale.parse(f'und_{code}').first_week_day
    found['week'][code] = english.days['stand-alone']['wide'][day]
    zone, *more = core.get_global('territory_zones')[code]
    if not more:
      city = zone.split('/')[-1].replace('_', ' ')
      if city != english.territories[code]:
        found['clock'][code] = city
  return found


@functools.cache
def generate(version: str, split: str) -> list[Question]:
  """Makes the questions of a split, those of a paragraph in sequence."""
  rng, found = random.Random(f'{version} {split}'), []
  while len(found) < EACH * PARAGRAPHS[split]:
    places, kinds = rng.sample(TERRITORIES, 2), rng.sample(list(WORDS), 2)
    key = ' '.join(sorted(places) + sorted(kinds))
    if splits.by_checksum(key) != split:
      continue
    told = [(k, p, _value(rng, k, p)) for k in kinds for p in places]
    values = {value for *_, value in told}
    if len(values) == 4 and all(values):
      rng.shuffle(told)
      found += _paragraph(rng, told, version, f'{split}-{len(found)}')
  return found


def _value(rng, kind, place):
  """Returns a fact's value, or '' if CLDR has none or several."""
  if kind != 'ticket':
    return facts()[kind].get(place, '')
  price, currency = rng.randrange(20, 1000), rng.choice(CURRENCIES)
  return numbers.format_currency(
    price, currency, '¤0', locale='en', currency_digits=False
  )


def _paragraph(rng, told, version, name):
  """Makes EACH questions on a paragraph of four facts, or of three."""
  left_out = told.pop() if version == 'v2.0' else None
  context, starts = '', []
  for kind, place, value in told:
    before, after = WORDS[kind][0].split('{value}')
    before = before.format(place=_name(place))
    context += ' ' * bool(context) + before
    starts.append(len(context))
    context += value + after
  values = [value for *_, value in told]
  answers = [((v,), (at,)) for v, at in zip(values, starts, strict=True)]
  asked = rng.sample(list(zip(told, answers, strict=True)), EACH)
  if left_out and rng.random() < EACH * UNANSWERABLE:
    asked[rng.randrange(EACH)] = left_out, ((), ())
  for i, ((kind, place, _), answer) in enumerate(asked):
    question = WORDS[kind][1].format(place=_name(place))
    yield Question(f'{name}-{i}', context, question, *answer)


@functools.cache
def _name(code):
  article = 'the ' if code in WITH_ARTICLE else ''
  return article + Locale('en').territories[code]


# Baselines --------------------------------------------------------------------


def first_name(question: Question) -> str:
  """Returns the first capitalised words after the paragraph's first word."""
  found = re.search(r'(?<=\s)[A-Z]\w*(?: [A-Z]\w*)*', question.context)
  return found[0] if found else question.context


def frequent(train: list[Question]) -> Callable:
  """Makes the baseline that answers with the most frequent training answer.

  The answer has to occur in the paragraph. The baseline prefers answers to
  questions that begin with the same three words, which reveal the kind of
  answer.

  Args:
    train: the training questions.

  Returns:
    A function of a Question; it returns '' if no answer occurs.
  """
  counts = defaultdict(Counter)
  for q in train:
    for key in (_opening(q), ''):
      counts[key].update(q.answers)
  ordered = {
    key: [text for text, _ in count.most_common()]
    for key, count in counts.items()
  }

  def answer(question):
    for key in (_opening(question), ''):
      for text in ordered.get(key, ()):
        if text in question.context:
          return text
    return ''

  return answer


def _opening(question):
  return ' '.join(question.text.split()[:3])
