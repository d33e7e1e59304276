# SPDX-License-Identifier: Apache-2.0
"""Language modelling of running text: WikiText, Penn Treebank and others.

Axes: R rows of a batch, L tokens of a row, n tokens of a text.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collab import models, tasks
from collab.data import cache, tokenizer_training
from collab.data.readers import text
from collab.data.splits import SPLITS
from collab.io import node_files
from collab.metrics import tokens
from collab.model_json import Meaning
from collab.runtime import tree_table

DOCUMENTS = ('', 'line', 'paragraph')


@dataclasses.dataclass(eq=False)
class RunningText(tasks.OfConfig):
  """The shared part of tasks on one long text: its tokens, loss and scores.

  `data` has corpus, path and column as in `text.read`; vocabulary, vocab_size
  as in `tokenizer_training.prepare`; folder of the tokens, '' for workdir/data;
  row_length L; batch_size R.

  Attributes:
    z_loss: as in `tokens.cross_entropy`.
  """

  z_loss: float = 0.0

  unit = 'tokens'

  _kind = 'bpe'  # of the tokenizer

  def __post_init__(self):
    data = self.data
    self._length, self._size = data.row_length, data.batch_size
    self._source = text.read(data.corpus, data.path, data.column)
    self._tokenizer = tokenizer_training.prepare(
      self.workdir,
      data.vocabulary,
      lambda: self._source.lines('train'),
      data.vocab_size,
      self._kind,
    )
    folder = node_files.folder(data.folder, self.workdir, 'data')
    self._streams = {  # reports bad input early
      split: text.stream(self._source, split, self._tokenizer, folder)
      for split in SPLITS
    }
    self.units_per_step = self._size * self._length
    self.model_kwargs = dict(vocab_size=self._tokenizer.vocab_size)
    self.meaning = Meaning(self._tokenizer.fingerprint)

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    sums = tokens.of_batch(model, params, batch, rngs, z_loss=self.z_loss)
    aux = dict(accuracy=sums['right'])
    if self.z_loss:  # otherwise it is the loss
      aux['nll'] = sums['nll']
    return sums['loss'], sums['weight'], aux

  score = staticmethod(tokens.of_rows)

  def describe(self) -> dict[str, Any]:
    V = self._tokenizer.vocab_size
    labels = self.batch(0)['labels']
    shown = dict(text=self._source.name, vocabulary=V) | self._details()
    if others := tree_table.join_names(self._source.not_read):
      shown['beside it, not read'] = others
    shown['logits at a time'] = tokens.logits_held(labels, V)
    streams = [stream.tokens for stream in self._streams.values()]
    shown['checksum'] = cache.checksum(*streams)
    return shown | dict(steps_per_epoch=self.rows.steps_per_epoch)

  def _details(self):
    """Returns what `describe` shows of a task."""
    return {f'words in {k}': x.words for k, x in self._streams.items()}


@dataclasses.dataclass(eq=False)
class LanguageModel(RunningText):
  """Language modelling: predicts the next token of one long text.

  See tasks.Task. A row is L consecutive tokens of the text, across the ends of
  lines and articles. An epoch has n / L rows. They begin at multiples of L plus
  a random offset below L, so that each epoch cuts the text at other places.
  `data` also has eval_stride, and kind as in `tokenizer_training.prepare`.

  Attributes:
    documents: '' for one running text; otherwise a row is packed with what is
      one document each, a 'line' or a 'paragraph' (up to an empty line), see
      `packed`.
  """

  documents: str = ''

  def __post_init__(self):
    if self.documents not in DOCUMENTS:
      raise ValueError(
        f'task.documents={self.documents!r}; expected one of {DOCUMENTS}.'
      )
    self._kind, length = self.data.kind, self.data.row_length
    if not 1 <= (stride := self.data.eval_stride) <= length:
      raise ValueError(
        f'data.eval_stride={stride}; expected 1 to data.row_length={length}.'
      )
    super().__post_init__()
    n = len(self._streams['train'].tokens)
    if n < length:
      raise ValueError(
        f'Training has {n} tokens; expected at least data.row_length={length}.'
      )
    self.rows = self.epochs(-(-n // length))

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Makes int32 [R, L]: labels, the tokens before them, and of `packed`."""
    ids, L = self._streams['train'].tokens, self._length
    rng, (host, hosts) = np.random.default_rng((self.seed, step)), self.shard
    moved = np.split(rng.integers(L, size=self._size), hosts)[host]
    starts = np.minimum(self.rows(step) * L + moved, len(ids) - L)
    return self._packed(windows(ids, starts, L, self._tokenizer.bos_id))

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    weights = jnp.ones(batch['labels'].shape)
    return super().loss(model, params, batch | dict(weights=weights), rngs)

  def score(
    self, model: models.Model, params: Mapping, batch: dict
  ) -> dict[str, jax.Array]:
    """Computes nll and number of tokens of each window, float32 [R]."""
    sums = super().score(model, params, batch)
    return dict(nll=sums['nll'], tokens=sums['tokens'])

  def passes(self, model: models.Model, split: str) -> dict[str, tasks.Pass]:
    """Evaluates windows of L tokens, eval_stride apart; each token counts once.

    In a window those tokens count that the window before did not reach. So
    except in the first window they have at least L - eval_stride tokens before
    them. For 'val', which is evaluated often, windows are L apart.
    """
    ids, L = self._streams[split].tokens, self._length
    stride = L if split == 'val' else self.data.eval_stride
    number, make = strided(ids, L, stride, self._tokenizer.bos_id)
    order, rows = range(number), lambda at: self._packed(make(at))
    return dict(windows=tasks.Pass.over(self.score, order, self._size, rows))

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes the perplexity of a word.

      perplexity = exp(sum_i -log p(token_i | before) / words)

    An end of line is a word too. So models with different tokens are
    comparable.
    """
    stream, sums = self._streams[split], found['windows']
    nll, count = (float(sums[k].sum(dtype=float)) for k in ('nll', 'tokens'))
    assert count == len(stream.tokens), (count, len(stream.tokens))
    return {
      'perplexity': tokens.perplexity(nll, stream.words),
      'nll': nll / count,
      'bits_per_character': nll / np.log(2) / stream.characters,
      'words': stream.words,
    }, tokens.in_pieces(sums, self._size)

  def baselines(self, split: str) -> dict[str, float]:
    """Computes word perplexity by training's token frequencies, plus one."""
    stream, V = self._streams[split], self._tokenizer.vocab_size
    counts = np.bincount(self._streams['train'].tokens, minlength=V) + 1
    logs = np.log(counts / counts.sum())
    nll = -(np.bincount(stream.tokens, minlength=V) * logs).sum()
    return dict(unigram_perplexity=tokens.perplexity(nll, stream.words))

  def _packed(self, batch):
    if not self.documents:
      return batch
    eos = self._tokenizer.eos_id
    return batch | packed(batch['tokens'], eos, self.documents)

  def _details(self):
    return super()._details() | {
      f'tokens a word in {k}': len(x.tokens) / x.words
      for k, x in self._streams.items()
    }


build = LanguageModel


def windows(
  ids: np.ndarray, starts: np.ndarray, L: int, bos: int
) -> dict[str, np.ndarray]:
  """Makes int32 [R, L]: labels ids[start : start + L], and tokens before."""
  places = starts[:, None] + np.arange(L)[None]
  before = np.where(places, ids[places - 1], bos)
  return dict(
    tokens=before.astype(np.int32), labels=ids[places].astype(np.int32)
  )


def packed(
  tokens: np.ndarray, eos: int, documents: str
) -> dict[str, np.ndarray]:
  """Finds the documents of rows: int32 [R, L], segments and positions.

  The <eos> that ends a document is, as an input, the first of the next one. A
  row begins in the middle of one, which then counts as a document.
  """
  begins = tokens == eos
  if documents == 'paragraph':  # an empty line is an <eos> after an <eos>
    begins[:, 1:] &= begins[:, :-1]
  places = np.arange(tokens.shape[1], dtype=np.int32)[None]
  first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
  return dict(segments=first, positions=places - first)


def strided(
  ids: np.ndarray, L: int, stride: int, bos: int
) -> tuple[int, Callable]:
  """Cuts windows in which each token counts once.

  Window i begins at i * stride. Its tokens count that window i - 1 did not
  reach.

  Returns:
    The number of windows, and a function of int [R] that makes a batch of them.
  """
  n = len(ids)
  padded = np.concatenate([ids, np.zeros(L + stride, ids.dtype)])

  def make(rows):
    starts = rows * stride
    reached = np.where(rows == 0, 0, starts - stride + L)[:, None]
    places = starts[:, None] + np.arange(L)[None]
    counts = (places >= reached) & (places < n)
    weights = counts.astype(np.float32)
    return windows(padded, starts, L, bos) | dict(weights=weights)

  return 1 + max(0, -(-(n - L) // stride)), make
