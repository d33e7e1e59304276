# SPDX-License-Identifier: Apache-2.0
"""Language modelling of running text: WikiText, Penn Treebank and any other.

Axes: R rows of a batch, L tokens of a row, n tokens of a text.
"""

import os

import jax.numpy as jnp
import numpy as np

from collab import metrics, tasks
from collab.data import cache, epochs, tokenizer_training
from collab.data.readers import text
from collab.data.splits import SPLITS
from collab.model_json import Meaning

TOKENIZING = ('vocabulary', 'vocab_size', 'kind')


class LanguageModel:
  """The next token of one long text; see tasks.Task.

  A row is L tokens in a row of the text, across the ends of lines and articles.
  The rows of an epoch are n / L pieces of the text, each moved on by a random
  part of L, so that epochs cut it at other places.

  Args:
    data: corpus and path as in `text.read`; vocabulary, vocab_size and kind as
      in `tokenizer_training.prepare`; folder of the tokens, '' for
      workdir/data; row_length L; batch_size R; eval_stride.
    workdir: keeps the tokenizer.
    seed: of the order of the data.
    shard: (index, count) of this host.

  Raises:
    ValueError: eval_stride is not 1 to row_length; whatever is wrong with the
      text.
  """

  unit = 'tokens'

  def __init__(self, data, *, workdir, seed, shard):
    length, stride = data.row_length, data.eval_stride
    if not 1 <= stride <= length:
      raise ValueError(
        f'eval_stride is {stride}, expected 1 to row_length={length}.'
      )
    self._source = text.read(data.corpus, data.path)
    self._tokenizer = tokenizer_training.prepare(
      workdir,
      lines=lambda: self._source.lines('train'),
      **{name: data[name] for name in TOKENIZING},
    )
    folder = data.folder or os.path.join(workdir, 'data')
    self._streams = {  # bad input shows early
      split: text.stream(self._source, split, self._tokenizer, folder)
      for split in SPLITS
    }
    n = len(self._streams['train'].tokens)
    if n < length:
      raise ValueError(f'Training has {n} tokens, fewer than a row: {length}.')
    self.rows = epochs.Epochs(-(-n // length), data.batch_size, seed, shard)
    self._length, self._stride = length, stride
    self._size, self._seed, self._shard = data.batch_size, seed, shard
    self.units_per_step = data.batch_size * length
    self.model_kwargs = dict(vocab_size=self._tokenizer.vocab_size)
    self.meaning = Meaning(self._tokenizer.fingerprint)

  def check(self, model):
    """See tasks.Task. Any text makes rows as that of training does."""

  def batch(self, step):
    """int32 [R, L]: labels, and the tokens before them, <bos> at the start."""
    tokens, L = self._streams['train'].tokens, self._length
    rows = self.rows(step)
    moved = np.random.default_rng((self._seed, step)).integers(
      L, size=self._size
    )
    moved = np.split(moved, self._shard[1])[self._shard[0]]
    starts = np.minimum(rows * L + moved, len(tokens) - L)
    return windows(tokens, starts, L, self._tokenizer.bos_id)

  def loss(self, model, params, batch, rngs):
    x = model.apply({'params': params}, batch, rngs=rngs, method='features')
    table, bias = model.output_table(params)
    weights = jnp.ones(batch['labels'].shape)
    sums = metrics.projected_cross_entropy(
      x, table, batch['labels'], weights, bias=bias
    )
    return sums['loss'], sums['weight'], dict(accuracy=sums['right'])

  def score(self, model, params, batch):
    """nll and tokens of each window, float32 [R]."""
    x = model.apply({'params': params}, batch, method='features')
    table, bias = model.output_table(params)
    sums = metrics.projected_rows(
      x, table, batch['labels'], batch['weights'], bias
    )
    return dict(nll=sums['nll'], tokens=sums['weight'])

  def passes(self, model, split):
    """Windows of L that move on by eval_stride; each token counts in one.

    Of a window the tokens count that the one before did not reach, so all but
    the first window's have at least L - eval_stride tokens before them. 'val',
    which is looked at often, moves on by L.
    """
    tokens, L = self._streams[split].tokens, self._length
    stride = L if split == 'val' else self._stride
    found = strided(tokens, L, stride, self._size, self._tokenizer.bos_id)
    return dict(windows=tasks.Pass(self.score, *found))

  def metrics(self, split, found):
    """Perplexity of a word.

      perplexity = exp(sum_i -log p(token_i | before) / words)

    with an end of line being a word too: what models of words are measured by,
    whatever the tokens are.
    """
    stream, sums = self._streams[split], found['windows']
    nll, count = (float(sums[k].sum(dtype=float)) for k in ('nll', 'tokens'))
    assert count == len(stream.tokens), (count, len(stream.tokens))
    return {
      'perplexity': metrics.perplexity(nll, stream.words),
      'nll': nll / count,
      'bits_per_character': nll / np.log(2) / stream.characters,
      'words': stream.words,
    }, metrics.in_pieces(sums, self._size)

  def baselines(self, split):
    """Perplexity of a word by the frequency of tokens in training, plus one."""
    stream, V = self._streams[split], self._tokenizer.vocab_size
    counts = np.bincount(self._streams['train'].tokens, minlength=V) + 1
    logs = np.log(counts / counts.sum())
    nll = -(np.bincount(stream.tokens, minlength=V) * logs).sum()
    return dict(unigram_perplexity=metrics.perplexity(nll, stream.words))

  def describe(self):
    shown = dict(text=self._source.name, vocabulary=self._tokenizer.vocab_size)
    for split, stream in self._streams.items():
      n = len(stream.tokens)
      shown[f'words in {split}'] = stream.words
      shown[f'tokens a word in {split}'] = n / stream.words
    shown['logits at a time'] = metrics.logits_held(
      self.batch(0)['labels'], self._tokenizer.vocab_size
    )
    tokens = [stream.tokens for stream in self._streams.values()]
    shown['checksum'] = cache.checksum(*tokens)
    return shown | dict(steps_per_epoch=self.rows.steps_per_epoch)


build = LanguageModel


def windows(tokens, starts, L, bos):
  """dict of int32 [R, L]: labels tokens[start : start + L], tokens before."""
  places = starts[:, None] + np.arange(L)[None]
  before = np.where(places, tokens[places - 1], bos)
  return dict(
    tokens=before.astype(np.int32),
    labels=tokens[places].astype(np.int32),
  )


def strided(tokens, L, stride, size, bos):
  """Batches of `size` windows in which each token counts once.

  Window i begins at i stride; of it count the tokens that i - 1 did not reach.

  Returns:
    The i-th batch as a function of i, and how many there are.
  """
  n = len(tokens)
  number = 1 + max(0, -(-(n - L) // stride))
  padded = np.concatenate([tokens, np.zeros(L + stride, tokens.dtype)])

  def batch(i):
    rows, place = epochs.part(i, number, size)
    starts = rows * stride
    reached = np.where(rows == 0, 0, starts - stride + L)[:, None]
    places = starts[:, None] + np.arange(L)[None]
    counts = (places >= reached) & (places < n)
    batch = windows(padded, starts, L, bos)
    return batch | dict(weights=counts.astype(np.float32), place=place)

  return batch, -(-number // size)
