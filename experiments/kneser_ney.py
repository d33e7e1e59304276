# SPDX-License-Identifier: Apache-2.0
r"""Trains a Kneser-Ney n-gram model, the baseline for language models.

  python -m experiments.kneser_ney --path=DIR --vocab_size=8000
  python -m experiments.kneser_ney --path=DIR --vocab_size=33283 --kind=words
  python -m experiments.kneser_ney --path=DIR --vocab_size=2000 --tokens=3000000

It is trained and tested on the tokens of an `lm` run with this vocabulary, and
has the same metrics: the perplexity of a word, and bits per character. With
--tokens it reads no more than such a run has read: the same rows, those of seed
0 and of --row_length and --batch_size, by default of configs/decoder.py:s.
--folder keeps tokenizer and tokens for runs to share, as
data.vocabulary=FOLDER/tokenizer.json and data.folder=FOLDER.
"""

import contextlib
import json
import shlex
import sys
import tempfile
import time

import numpy as np

from collab import checks, command, tasks
from collab.data import tokenizer_training
from collab.data.readers import text
from collab.metrics.tokens import perplexity
from collab.training import logs
from configs import decoder
from experiments import results, study

RESULTS = study.RESULTS / 'kneser_ney.jsonl'


class KneserNey:
  """Interpolated modified Kneser-Ney, Chen and Goodman (1998), section 3.

    p_n(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + g(h) p_{n-1}(w | h')

  h' is h without its first token, c(h) = sum_w c(hw), and p_0 = 1 / V. g(h) is
  the mass that the discounts remove. c counts occurrences at the highest order;
  below it, c counts the different tokens before hw. D has one value each for
  counts of 1, 2, and 3 or more, computed from the counts of counts of its
  order.

  Args:
    tokens: int [R, n], the training tokens, in R pieces of text; no n-gram
      reaches from one into the next.
    vocab_size: V.
    order: the longest n-gram.
  """

  def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5):
    self._V = vocab_size
    tokens = np.asarray(tokens, np.int64)
    # An id is the n-gram that ends there; -1 if it would begin before its text.
    ids, keys, counts = np.zeros_like(tokens), [], []
    for n in range(1, min(order, tokens.shape[1]) + 1):
      key = self._keys(ids, tokens, n)
      found, first, inverse, count = np.unique(
        key[:, n - 1 :],
        return_index=True,
        return_inverse=True,
        return_counts=True,
      )
      if n > 1:  # tokens before the (n - 1)-grams
        ends = ids[:, n - 1 :].reshape(-1)[first]
        counts[-1] = np.bincount(ends, minlength=len(keys[-1]))
      ids = np.full_like(tokens, -1)
      ids[:, n - 1 :] = inverse.reshape(key[:, n - 1 :].shape)
      keys.append(found)
      counts.append(count)
    sizes = [1, *map(len, keys)]
    self._levels = [
      (key, *self._level(key // vocab_size, count, size))
      for key, count, size in zip(keys, counts, sizes, strict=False)
    ]

  def log_probs(self, tokens: np.ndarray) -> np.ndarray:
    """Computes log p(token | the order - 1 tokens before), float [R, n]."""
    tokens = np.asarray(tokens, np.int64)
    p = np.full(tokens.shape, 1 / self._V)
    ids = np.zeros_like(tokens)
    for n, (keys, seen, kept) in enumerate(self._levels, 1):
      key = self._keys(ids, tokens, n)
      place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
      hit = (key >= 0) & (keys[place] == key)
      context = key // self._V
      known = key >= 0
      p[known] *= kept[context[known]]
      p[hit] += seen[place[hit]]
      ids = np.where(hit, place, -1)
    return np.log(p)

  def _keys(self, ids, tokens, n):
    """Makes a number for each n-gram (context, token); -1 if too short."""
    before = np.full_like(ids, 0 if n == 1 else -1)
    before[:, 1:] = ids[:, :-1]
    return np.where(before < 0, -1, before * self._V + tokens)

  def _level(self, context, counts, size):
    """Computes (c - D(c)) / c(h) of each n-gram, and g(h) of each context."""
    discount = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, counts, size)
    taken = np.bincount(context, discount, size)
    safe = np.maximum(total, 1)
    seen = (counts - discount) / safe[context]
    return seen, np.where(total > 0, taken / safe, 1.0)


def discounts(counts: np.ndarray) -> np.ndarray:
  """Computes D for counts 0, 1, 2, 3+; Chen and Goodman, equation 17."""
  n = [np.count_nonzero(counts == i) for i in range(5)]
  if all(n[1:]):
    y = n[1] / (n[1] + 2 * n[2])
    found = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
    if min(found) > 0:
      return np.array([0, *found])
  return np.array([0.0, 0.5, 0.5, 0.5])  # the text is too small for an estimate


def measure(
  path: str,
  kind: str,
  vocab_size: int,
  order: int,
  read: int = 0,
  folder: str = '',
  **shape: int,
) -> dict:
  """Trains and tests a model; returns settings, perplexity of a word, bits.

  Args:
    path: folder of the text.
    kind, vocab_size: of the tokenizer, as in `tokenizer_training.train`.
    order: the longest n-gram.
    read: number of training tokens, 0 for all.
    folder: where tokenizer and tokens stay, '' for nowhere.
    **shape: row_length and batch_size of a run, with `read`.
  """
  checks.at_least('--order', order, 1)
  checks.at_least('--tokens', read, 0)
  start, source = time.monotonic(), text.read('', path)
  with contextlib.ExitStack() as stack:
    place = folder or stack.enter_context(tempfile.TemporaryDirectory())
    words = tokenizer_training.prepare(
      place, '', lambda: source.lines('train'), vocab_size, kind
    )
    train, test = (
      text.stream(source, split, words, place) for split in ('train', 'test')
    )
    pieces = train.tokens[None]
    if read:
      pieces = rows(path, kind, read, place, **shape)
    model = KneserNey(pieces, words.vocab_size, order)
    nll = -model.log_probs(test.tokens[None]).sum()
    return dict(
      kind=kind,
      vocabulary=words.vocab_size,
      order=order,
      trained=pieces.size,
      tokens=len(test.tokens),
      words=test.words,
      perplexity=perplexity(nll, test.words),
      bits_per_character=nll / np.log(2) / test.characters,
      seconds=round(time.monotonic() - start, 1),
    )


def rows(
  path: str, kind: str, read: int, folder: str, **shape: int
) -> np.ndarray:
  """Returns the rows of the first steps of configs/decoder.py:s, int [R, L].

  Args:
    path, kind: as in `measure`.
    read: number of tokens, a multiple of those of a step.
    folder: where tokenizer and tokens are.
    **shape: row_length and batch_size, in place of those of the config.
  """
  c = decoder.get_config('s')
  c.data.update(path=path, kind=kind, folder=folder, eval_stride=1, **shape)
  task = tasks.build(
    **c.task, data=c.data, workdir=folder, seed=0, shard=(0, 1)
  )
  steps, rest = divmod(read, task.units_per_step)
  if rest or not steps:
    raise ValueError(
      f'--tokens={read}; expected a multiple of {task.units_per_step}.'
    )
  return np.concatenate([task.batch(i)['labels'] for i in range(steps)])


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--path', required=True, help='folder of the text')
  add('--kind', default='bpe', choices=list(tokenizer_training.KINDS))
  add('--vocab_size', type=int, default=8000)
  add('--order', type=int, default=5)
  add('--tokens', type=int, default=0, help='of training, default all')
  s = decoder.get_config('s').data
  add('--row_length', type=int, default=s.row_length, help='with --tokens')
  add('--batch_size', type=int, default=s.batch_size, help='with --tokens')
  add('--folder', default='', help='where tokenizer and tokens stay')
  add('--save', action='store_true', help=f'into {RESULTS.name}')
  with command.errors_in_a_line('kneser_ney'):
    args = parser.parse_args()
    for name in ('row_length', 'batch_size'):
      if not args.tokens and getattr(args, name) != parser.get_default(name):
        raise ValueError(f'--{name} needs --tokens.')
    row = measure(
      args.path,
      args.kind,
      args.vocab_size,
      args.order,
      args.tokens,
      args.folder,
      row_length=args.row_length,
      batch_size=args.batch_size,
    )
  logs.summary('Kneser-Ney', row)
  if args.save:
    words = f'{parser.prog} {shlex.join(sys.argv[1:])}'
    with RESULTS.open('a') as file:
      file.write(json.dumps(results.about(words) | row) + '\n')


if __name__ == '__main__':
  main()
