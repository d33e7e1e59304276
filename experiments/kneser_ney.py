# SPDX-License-Identifier: Apache-2.0
r"""Trains a Kneser-Ney n-gram model, the baseline for language models.

  python -m experiments.kneser_ney --path=DIR --vocab_size=8000
  python -m experiments.kneser_ney --path=DIR --vocab_size=33283 --kind=words

It is trained and tested on the tokens of an `lm` run with this vocabulary, and
has the same metric: the perplexity of a word.
"""

import json
import shlex
import sys
import tempfile
import time

import numpy as np

from collab import command
from collab.data import tokenizer_training
from collab.data.readers import text
from collab.metrics.tokens import perplexity
from collab.training import logs
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
    tokens: int [n], the training tokens.
    vocab_size: V.
    order: the longest n-gram.
  """

  def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5):
    self._V = vocab_size
    tokens = np.asarray(tokens, np.int64)
    # ids[n][i] is the n-gram that ends at i; -1 if it would begin before 0.
    ids, keys, counts = [np.zeros(len(tokens), np.int64)], [], []
    for n in range(1, order + 1):
      key = self._keys(ids[-1], tokens, n)
      found, first, inverse, count = np.unique(
        key[n - 1 :], return_index=True, return_inverse=True, return_counts=True
      )
      if n > 1:  # tokens before the (n - 1)-grams
        ends = ids[-1][n - 1 :][first]
        counts[-1] = np.bincount(ends, minlength=len(keys[-1]))
      ids.append(np.concatenate([np.full(n - 1, -1), inverse.reshape(-1)]))
      keys.append(found)
      counts.append(count)
    sizes = [1, *map(len, keys)]
    self._levels = [
      (key, *self._level(key // vocab_size, count, size))
      for key, count, size in zip(keys, counts, sizes, strict=False)
    ]

  def log_probs(self, tokens: np.ndarray) -> np.ndarray:
    """Computes log p(token | the order - 1 tokens before), float [n]."""
    tokens = np.asarray(tokens, np.int64)
    p = np.full(len(tokens), 1 / self._V)
    ids = np.zeros(len(tokens), np.int64)
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
    before = np.concatenate([[0 if n == 1 else -1], ids[:-1]])
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
  if not all(n[1:]):  # the text is too small for an estimate
    return np.array([0.0, 0.5, 0.5, 0.5])
  y = n[1] / (n[1] + 2 * n[2])
  return np.array([0] + [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)])


def measure(path: str, kind: str, vocab_size: int, order: int) -> dict:
  """Trains and tests a model; returns settings and perplexity of a word."""
  start, source = time.monotonic(), text.read('', path)
  with tempfile.TemporaryDirectory() as folder:
    words = tokenizer_training.prepare(
      folder, '', lambda: source.lines('train'), vocab_size, kind
    )
    train, test = (
      text.stream(source, split, words, folder) for split in ('train', 'test')
    )
    model = KneserNey(train.tokens, words.vocab_size, order)
    nll = -model.log_probs(test.tokens).sum()
    return dict(
      kind=kind,
      vocabulary=words.vocab_size,
      order=order,
      tokens=len(test.tokens),
      words=test.words,
      perplexity=perplexity(nll, test.words),
      seconds=round(time.monotonic() - start, 1),
    )


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--path', required=True, help='folder of the text')
  add('--kind', default='bpe', choices=list(tokenizer_training.KINDS))
  add('--vocab_size', type=int, default=8000)
  add('--order', type=int, default=5)
  add('--save', action='store_true', help=f'into {RESULTS.name}')
  with command.errors_in_a_line('kneser_ney'):
    args = parser.parse_args()
    row = measure(args.path, args.kind, args.vocab_size, args.order)
  logs.summary('Kneser-Ney', row)
  if args.save:
    words = f'{parser.prog} {shlex.join(sys.argv[1:])}'
    with RESULTS.open('a') as file:
      file.write(json.dumps(results.about(words) | row) + '\n')


if __name__ == '__main__':
  main()
