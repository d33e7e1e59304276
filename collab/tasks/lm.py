# SPDX-License-Identifier: Apache-2.0
"""Language modelling of running text: WikiText, Penn Treebank and any other.

Axes: R rows of a batch, L tokens of a row, n tokens of a text.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from collab import metrics
from collab.data import cache, text, tokenizer
from collab.data.epochs import Epochs, in_order
from collab.data.sources import SPLITS
from collab.model_json import Meaning

TOKENIZING = ('vocabulary', 'vocab_size', 'kind')


class LanguageModel:
  """The next token of one long text; see tasks.Task.

  A row is L tokens in a row of the text, across the ends of lines and articles.
  The rows of an epoch are n / L pieces of the text, each moved on by a random
  part of L, so that epochs cut it at other places.

  Args:
    data: corpus and path as in `text.read`; vocabulary, vocab_size and kind as
      in `tokenizer.prepare`; folder of the tokens, '' for workdir/data;
      row_length L; batch_size R; eval_stride.
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
    self._tokenizer = tokenizer.prepare(
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
    self.rows = Epochs(-(-n // length), data.batch_size, seed, shard)
    self._length, self._stride = length, stride
    self._size, self._seed, self._shard = data.batch_size, seed, shard
    self.units_per_step = data.batch_size * length
    self._program = None, None
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

  def inputs(self, batch):
    return (dict(tokens=batch['tokens']),)

  def loss(self, apply, params, batch, rngs):
    x = apply({'params': params}, batch, rngs=rngs, method='features')
    weights = batch.get('weights', jnp.ones(batch['labels'].shape))
    sums = metrics.projected_cross_entropy(
      x, params['embed']['embedding'], batch['labels'], weights
    )
    return sums['loss'], sums['weight'], dict(accuracy=sums['right'])

  def evaluate(self, model, params, split):
    """Perplexity of a word, by windows of L that move on by eval_stride.

    Of a window the tokens count that the one before did not reach, so each of
    the text counts once, and all but the first window's have at least
    L - eval_stride tokens before them. 'val', which is looked at often, moves
    on by L.

      perplexity = exp(sum_i -log p(token_i | before) / words)

    with an end of line being a word too: what models of words are measured by,
    whatever the tokens are.
    """
    stream = self._streams[split]
    stride = self._length if split == 'val' else self._stride
    sums, nll, count, parts = self._compiled(model), 0.0, 0.0, []
    bos = self._tokenizer.bos_id
    for batch in strided(stream.tokens, self._length, stride, self._size, bos):
      new = [float(x) for x in jax.device_get(sums(params, batch))]
      nll, count = nll + new[0], count + new[1]
      parts.append(new)
    assert count == len(stream.tokens), (count, len(stream.tokens))
    # Examples of a running text are pieces of it, each of a batch of windows.
    parts = dict(zip(('nll', 'tokens'), zip(*parts, strict=True), strict=True))
    self.examples = parts if np.isfinite(nll) else {}
    return {
      'perplexity': metrics.perplexity(nll, stream.words),
      'nll': nll / count,
      'bits_per_character': nll / np.log(2) / stream.characters,
      'words': stream.words,
      'unigram_perplexity': self._unigram(stream),
    }

  def _compiled(self, model):
    """(params, batch) -> sums, compiled once for all evaluations."""

    def sums(params, batch):
      total, weight, _ = self.loss(model.apply, params, batch, rngs={})
      return total, weight

    if self._program[0] is not model:
      self._program = model, jax.jit(sums)
    return self._program[1]

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

  def _unigram(self, stream):
    """Perplexity of a word by the frequency of tokens in training, plus one."""
    V = self._tokenizer.vocab_size
    counts = np.bincount(self._streams['train'].tokens, minlength=V) + 1
    logs = np.log(counts / counts.sum())
    found = np.bincount(stream.tokens, minlength=V)
    return metrics.perplexity(-(found * logs).sum(), stream.words)


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
  """Yields batches of `size` windows in which each token counts once.

  Window i begins at i stride; of it count the tokens that i - 1 did not reach.
  """
  n = len(tokens)
  number = 1 + max(0, -(-(n - L) // stride))
  padded = np.concatenate([tokens, np.zeros(L + stride, tokens.dtype)])
  for rows, valid in in_order(number, size):
    starts = rows * stride
    reached = np.where(rows == 0, 0, starts - stride + L)[:, None]
    places = starts[:, None] + np.arange(L)[None]
    counts = valid[:, None] & (places >= reached) & (places < n)
    yield windows(padded, starts, L, bos) | dict(
      weights=counts.astype(np.float32)
    )
