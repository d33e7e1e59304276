# SPDX-License-Identifier: Apache-2.0
r"""Writes the texts that studies read, from the data sets, to RUNS/texts.

  ./launch.sh python -m experiments.texts --data=DIR

  books        all of DIR/books, but of its validation text a part
  books_rates  likewise, and tested on another part of the validation text
  ptb_rates    DIR/ptb, tested on its validation text
  captions-N   N images of DIR/multi30k, whose English caption is to become
               German, French and Czech: each line begins with its language

So no learning rate is chosen on a test set, and a short run does not spend its
time on a long validation. Texts that are there stay: runs know them by their
dates.
"""

from collections.abc import Iterator
import gzip
import itertools
import pathlib

from collab import command
from collab.io import atomic, paths

VALIDATION = 800  # lines of books, about 250,000 characters
RATES = 4000  # lines of books that compare learning rates, a million characters
LANGUAGES = 'de', 'fr', 'cs'
PAIRS = 500, 2000, 8000, 29_000  # 29,000 is all
SPLITS = dict(train='train', val='val', test='test_2016_flickr')


def books(data: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes books and books_rates."""
  source = data / 'books'
  with gzip.open(source / 'valid.txt.gz', 'rt', encoding='utf-8') as file:
    short = ''.join(itertools.islice(file, VALIDATION))
    rates = ''.join(itertools.islice(file, RATES))
  for name in ('books', 'books_rates'):
    _link(source / 'train.txt.gz', folder / name / 'train.txt.gz')
    _write(folder / name / 'valid.txt', short)
  _link(source / 'test.txt.gz', folder / 'books' / 'test.txt.gz')
  _write(folder / 'books_rates' / 'test.txt', rates)


def treebank(data: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes ptb_rates."""
  source, place = data / 'ptb', folder / 'ptb_rates'
  for split, read in dict(train='train', valid='valid', test='valid').items():
    _link(source / f'ptb.{read}.txt.gz', place / f'ptb.{split}.txt.gz')


def captions(data: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes captions-N for each N of `PAIRS`."""
  for pairs in PAIRS:
    for split, name in SPLITS.items():
      most = pairs if split == 'train' else None
      for ending in ('source', 'target'):
        lines = _captions(data / 'multi30k', name, ending, most)
        _write(folder / f'captions-{pairs}' / f'{split}.{ending}', lines)


def _captions(source, name, ending, most) -> str:
  """The captions of the first images, in each language after another."""

  def lines(language) -> Iterator[str]:
    read = 'en' if ending == 'source' else language
    tag = f'{language}: ' if ending == 'source' else ''
    with (source / f'{name}.{read}').open(encoding='utf-8') as file:
      yield from (tag + line for line in itertools.islice(file, most))

  return ''.join(itertools.chain.from_iterable(map(lines, LANGUAGES)))


def _link(source, place):
  place.parent.mkdir(parents=True, exist_ok=True)
  if not place.exists():
    place.symlink_to(source.resolve(strict=True))


def _write(place, text):
  place.parent.mkdir(parents=True, exist_ok=True)
  if not place.exists():
    atomic.write_text(place, text)


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--data', required=True, help='folder of the data sets')
  parser.add_argument('--runs', default=paths.runs_folder())
  with command.errors_in_a_line('texts'):
    args = parser.parse_args()
    data, folder = pathlib.Path(args.data), pathlib.Path(args.runs) / 'texts'
    for make in (books, treebank, captions):
      make(data, folder)
  print(*sorted(map(str, folder.iterdir())), sep='\n')


if __name__ == '__main__':
  main()
