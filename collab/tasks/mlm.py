# SPDX-License-Identifier: Apache-2.0
"""Pre-training by masked tokens, in RoBERTa's form.

Axes: R rows of a batch, L tokens of a row, P masked ones of a row, V ids.
"""

import functools
import os

import numpy as np

from collab import metrics, tasks
from collab.data import cache, epochs, tokenizer_training
from collab.data.readers import text
from collab.data.splits import SPLITS
from collab.model_json import Meaning


class MaskedLanguageModel:
  """Tokens from what is around them; see tasks.Task.

  arXiv 1907.11692: full sentences (a row is <bos> and the next L - 1 tokens of
  the text, across the ends of lines) and dynamic masking: P = round(rate L)
  other places of a row each time that it is seen, where the model sees <mask>
  (80 %), any other token (10 %) or the token itself (10 %).

  Args:
    data: corpus and path as in `text.read`; vocabulary and vocab_size as in
      `tokenizer_training.prepare`; folder of the tokens, '' for workdir/data;
      row_length L; batch_size R.
    workdir: keeps the tokenizer.
    seed: of the order of the data and of the masks.
    shard: (index, count) of this host.
    rate: share of the tokens that are masked.

  Raises:
    ValueError: rate masks none or all; whatever is wrong with the text.
  """

  unit = 'tokens'

  def __init__(self, data, *, workdir, seed, shard, rate=0.15):
    L = data.row_length
    self._masked = round(rate * L)
    if not 1 <= self._masked < L:
      raise ValueError(
        f'rate={rate} masks {self._masked} of row_length={L} tokens, expected '
        f'1 to {L - 1}.'
      )
    self._source = text.read(data.corpus, data.path)
    self._tokenizer = tokenizer_training.prepare(
      workdir,
      data.vocabulary,
      lambda: self._source.lines('train'),
      data.vocab_size,
    )
    if self._tokenizer.mask_id is None:
      raise ValueError('The tokenizer has no token to mask with.')
    self._ordinary = np.setdiff1d(
      np.arange(self._tokenizer.vocab_size), list(self._tokenizer.special)
    )
    folder = data.folder or os.path.join(workdir, 'data')
    self._streams = {  # bad input shows early
      split: text.stream(self._source, split, self._tokenizer, folder)
      for split in SPLITS
    }
    for split, stream in self._streams.items():
      if len(stream.tokens) < L - 1:
        raise ValueError(
          f'{split} has {len(stream.tokens)} tokens, fewer than a row: {L - 1}.'
        )
    n = len(self._streams['train'].tokens) // (L - 1)
    self.rows = epochs.Epochs(n, data.batch_size, seed, shard)
    self._length, self._size, self._seed = L, data.batch_size, seed
    self._shard = shard
    self.units_per_step = data.batch_size * L
    self.model_kwargs = dict(vocab_size=self._tokenizer.vocab_size, head='mlm')
    self.meaning = Meaning(self._tokenizer.fingerprint)

  def check(self, model):
    """See tasks.Task. That each split has a row is known since it was read."""

  def batch(self, step):
    """tokens, types [R, L], lengths [R]; positions, labels, weights [R, P]."""
    draws = self._draws(np.random.default_rng((self._seed, step, 0)))
    host, hosts = self._shard
    mine = [np.split(x, hosts)[host] for x in draws]
    return self._masked_rows('train', self.rows(step), *mine)

  def loss(self, model, params, batch, rngs):
    x = model.apply({'params': params}, batch, rngs=rngs, method='features')
    table, bias = model.output_table(params)
    sums = metrics.projected_cross_entropy(
      x, table, batch['labels'], batch['weights'], bias=bias
    )
    return sums['loss'], sums['weight'], dict(accuracy=sums['right'])

  def score(self, model, params, batch):
    """nll, right ones and number of each row's masked tokens, float32 [R]."""
    x = model.apply({'params': params}, batch, method='features')
    table, bias = model.output_table(params)
    sums = metrics.projected_rows(
      x, table, batch['labels'], batch['weights'], bias
    )
    return dict(nll=sums['nll'], tokens=sums['weight'], right=sums['right'])

  def passes(self, model, split):
    """The masked tokens of all whole rows, the same ones every time."""
    batches = -(-self._whole_rows(split) // self._size)
    batch = functools.partial(self._eval_batch, split)
    return dict(rows=tasks.Pass(self.score, batch, batches))

  def metrics(self, split, found):
    sums = found['rows']
    nll, count, right = (
      float(sums[name].sum(dtype=float)) for name in ('nll', 'tokens', 'right')
    )
    return dict(
      nll=nll / count,
      perplexity=metrics.perplexity(nll, count),
      accuracy=right / count,
    ), metrics.in_pieces(sums, self._size)

  def baselines(self, split):
    """How often the commonest token of training is right."""
    guess = np.bincount(self._streams['train'].tokens).argmax()
    hits = []
    for i in range(-(-self._whole_rows(split) // self._size)):
      batch = self._eval_batch(split, i)
      hits.append((batch['labels'] == guess)[batch['place'] >= 0])
    return dict(accuracy_of_commonest=float(np.concatenate(hits).mean()))

  def _whole_rows(self, split):
    return len(self._streams[split].tokens) // (self._length - 1)

  def _eval_batch(self, split, i):
    rows, place = epochs.part(i, self._whole_rows(split), self._size)
    draws = self._draws(np.random.default_rng(i))
    return self._masked_rows(split, rows, *draws) | dict(place=place)

  def describe(self):
    shown = dict(text=self._source.name, vocabulary=self._tokenizer.vocab_size)
    for split, stream in self._streams.items():
      shown[f'words in {split}'] = stream.words
    shown['masked of a row'] = f'{self._masked} of {self._length}'
    shown['logits at a time'] = metrics.logits_held(
      self.batch(0)['labels'], self._tokenizer.vocab_size
    )
    tokens = [stream.tokens for stream in self._streams.values()]
    shown['checksum'] = cache.checksum(*tokens)
    return shown | dict(steps_per_epoch=self.rows.steps_per_epoch)

  def _draws(self, rng):
    """Of a global batch: masked places, kinds and other tokens, all [R, P]."""
    L, P, R = self._length, self._masked, self._size
    # The places of the P smallest of L - 1 numbers: any P, each as likely.
    order = rng.random((R, L - 1)).argpartition(P - 1, axis=1)[:, :P]
    kind = rng.random((R, P))
    other = self._ordinary[rng.integers(len(self._ordinary), size=(R, P))]
    return 1 + np.sort(order, axis=1).astype(np.int32), kind, other

  def _masked_rows(self, split, rows, positions, kind, other):
    L, P, R = self._length, self._masked, len(rows)
    places = rows[:, None] * (L - 1) + np.arange(L - 1)[None]
    tokens = np.full((R, L), self._tokenizer.bos_id, np.int32)
    tokens[:, 1:] = self._streams[split].tokens[places]
    labels = np.take_along_axis(tokens, positions, axis=1)
    mask = self._tokenizer.mask_id
    seen = np.where(kind < 0.8, mask, np.where(kind < 0.9, other, labels))
    np.put_along_axis(tokens, positions, seen.astype(np.int32), axis=1)
    return dict(
      tokens=tokens,
      types=np.zeros((R, L), np.int32),
      lengths=np.full(R, L, np.int32),
      positions=positions,
      labels=labels,
      weights=np.ones((R, P), np.float32),
    )


build = MaskedLanguageModel
