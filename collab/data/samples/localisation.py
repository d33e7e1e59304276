# SPDX-License-Identifier: Apache-2.0
"""Dates, amounts, names ... in English and German, formatted by Babel (CLDR).

Each public function draws an item at random, (pair, values): the English and
the German text; the numbers, dates and times in it, as strings.

CLDR's no-break, narrow and thin spaces become plain ones: they are for
typesetting, and would only teach a tokenizer four kinds of blank.
"""

import datetime
from decimal import Decimal
from random import Random

from babel import Locale, dates, numbers, units

# ISO 3166, 639, 15924 and 4217 codes and CLDR's unit names; the words come from
# CLDR. Countries whose names are long, alike or disputed are left out.
TERRITORIES = str.split(
  'AR AT AU BD BE BG BR BY CA CH CL CN CO CR CU CY CZ DE DK DZ EC EE EG ES ET '
  'FI FR GE GH GR HR HU ID IE IL IN IQ IR IS IT JM JO JP KE KH KR KZ LB LT LU '
  'LV LY MA MD MG ML MN MT MX MY MZ NG NL NO NP NZ PA PE PH PK PL PT PY RO RS '
  'RU RW SA SE SG SI SK SN SO SY TH TN TR TZ UA UG US UY UZ VE VN YE ZM ZW'
)
LANGUAGES = str.split(
  'af ar az be bg bn ca cs cy da de el en eo es et eu fa fi fr ga gl he hi hr '
  'hu hy id is it ja ka kk km ko la lt lv mk mn ms mt nl pl pt ro ru sk sl sq '
  'sr sv sw ta th tr uk ur uz vi zh zu'
)
SCRIPTS = str.split('Arab Cyrl Deva Grek Hebr Latn')
CURRENCIES = str.split(
  'AUD BRL CAD CHF CNY CZK DKK EGP EUR GBP HUF INR KRW MXN NOK PLN RUB SEK '
  'TRY USD'
)
UNITS = str.split(
  'area-hectare area-square-kilometer area-square-meter digital-gigabyte '
  'digital-megabyte duration-hour duration-minute duration-second '
  'energy-kilowatt-hour length-centimeter length-kilometer length-meter '
  'length-mile length-millimeter mass-gram mass-kilogram power-kilowatt '
  'power-watt temperature-celsius volume-liter volume-cubic-meter'
)
PER = (
  ('length-kilometer', 'duration-hour'),
  ('mass-gram', 'volume-liter'),
  ('mass-kilogram', 'area-square-meter'),
  ('volume-liter', 'duration-minute'),
)
Item = tuple[tuple[str, str], tuple[str, ...]]
SECONDS = dict(second=1, minute=60, hour=3600, day=86400, week=604800)


def _both(form, *args, **kwargs):
  """form(..., locale) in English and German, with plain spaces."""
  texts = (form(*args, **kwargs, locale=locale) for locale in ('en', 'de'))
  return tuple(' '.join(text.split()) for text in texts)


def _number(rng, decimals):
  """A number of 2 to 5 digits before the point: every size equally often."""
  digits, scale = rng.randint(2, 5), 10**decimals
  whole = rng.randrange(10 ** (digits - 1) * scale, 10**digits * scale)
  number = Decimal(whole) / scale
  return number, (f'{number.normalize():f}',)


def date(rng: Random) -> Item:
  """A day of 1950 to 2049, some with the time: 'Thursday, July 4, 2024'."""
  moment = datetime.datetime(1950, 1, 1) + datetime.timedelta(
    minutes=rng.randrange(36_500 * 24 * 60)
  )
  day = str(moment.date())
  style = rng.choice(('full', 'long', 'medium', 'with time'))
  if style == 'with time':
    pair = _both(dates.format_datetime, moment, 'medium')
    return pair, (day, str(moment.time()))
  return _both(dates.format_date, moment, style), (day,)


def time(rng: Random) -> Item:
  """A time of day: '3:04 PM'."""
  hour, minute, second = map(rng.randrange, (24, 60, 60))
  style = rng.choice(('short', 'medium'))
  clock = datetime.time(hour, minute, second if style == 'medium' else 0)
  return _both(dates.format_time, clock, style), (str(clock),)


def amount(rng: Random) -> Item:
  """An amount of money: '$1,234.50' or '1,234.50 US dollars'."""
  code, style = rng.choice(CURRENCIES), rng.choice(('standard', 'name'))
  number, values = _number(rng, 0 if code == 'KRW' else 2)
  pair = _both(numbers.format_currency, number, code, format_type=style)
  return pair, values


def unit(rng: Random) -> Item:
  """A number with its unit: '12.5 kilometers'."""
  number, values = _number(rng, rng.randint(0, 1))
  if rng.random() < 0.2:
    what, per = rng.choice(PER)
    pair = _both(units.format_compound_unit, number, what, denominator_unit=per)
    return pair, values
  what, length = rng.choice(UNITS), rng.choice(('long', 'short'))
  return _both(units.format_unit, number, what, length=length), values


def relative(rng: Random) -> Item:
  """A span of time, most of them from now: 'in 12 days'."""
  number, what = rng.randint(2, 999), rng.choice(list(SECONDS))
  pair = _both(
    dates.format_timedelta,
    datetime.timedelta(seconds=rng.choice((1, -1)) * number * SECONDS[what]),
    granularity=what,
    threshold=1e9,  # never a coarser unit
    add_direction=rng.random() < 0.8,
  )
  return pair, (str(number),)


def territory(rng: Random) -> Item:
  """The name of a country: 'Peru'."""
  code = rng.choice(TERRITORIES)
  return _both(lambda locale: Locale(locale).territories[code]), ()


def language(rng: Random) -> Item:
  """The name of a language, some with country and script: 'Thai (Peru)'."""
  whole = Locale('en')  # the constructor knows no Thai of Peru: set the parts
  whole.language = rng.choice(LANGUAGES)
  if rng.random() < 0.6:
    whole.territory = rng.choice(TERRITORIES)
    whole.script = rng.choice(SCRIPTS) if rng.random() < 0.3 else None
  return _both(whole.get_display_name), ()


def currency(rng: Random) -> Item:
  """The name of a currency: 'Swiss Franc'."""
  code = rng.choice(CURRENCIES)
  return _both(numbers.get_currency_name, code), ()
