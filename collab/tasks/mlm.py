# SPDX-License-Identifier: Apache-2.0
"""Masked-LM pre-training in RoBERTa's form.

Axes: R rows of a batch, L tokens of a row, P masked ones of a row, V ids.
"""

import dataclasses
import functools

import numpy as np

from collab import models, tasks
from collab.metrics import tokens
from collab.tasks import lm


@dataclasses.dataclass(eq=False, kw_only=True)
class MaskedLanguageModel(lm.RunningText):
  """Masked language modelling: predicts masked tokens; see tasks.Task.

  arXiv 1907.11692: full sentences and dynamic masking. A row is <bos> and the
  next L - 1 tokens of the text, across the ends of lines. Each time a row is
  used, P = round(rate L) positions are drawn. There the model sees <mask>
  (80 %), any other token (10 %) or the token itself (10 %).

  Attributes:
    rate: share of the tokens that are masked.

  Raises:
    ValueError: rate masks no token or all, or the text is faulty.
  """

  rate: float = 0.15

  def __post_init__(self):
    L = self.data.row_length
    self._masked = round(self.rate * L)
    if not 1 <= self._masked < L:
      raise ValueError(
        f'task.rate={self.rate} masks {self._masked} of data.row_length={L} '
        f'tokens; expected 1 to {L - 1}.'
      )
    super().__post_init__()
    if self._tokenizer.mask_id is None:
      raise ValueError('The tokenizer has no token to mask with.')
    self._ordinary = np.setdiff1d(
      np.arange(self._tokenizer.vocab_size), list(self._tokenizer.special)
    )
    for split, stream in self._streams.items():
      if (n := len(stream.tokens)) < L - 1:
        raise ValueError(f'{split} has {n} tokens, fewer than a row: {L - 1}.')
    self.rows = self.epochs(self._whole_rows('train'))
    self.model_kwargs |= dict(head='mlm')

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Makes tokens, types [R, L], lengths [R], and three arrays [R, P]."""
    draws = self._draws(np.random.default_rng((self.seed, step, 0)))
    host, hosts = self.shard
    mine = [np.split(x, hosts)[host] for x in draws]
    return self._masked_rows('train', self.rows(step), *mine)

  def passes(
    self, model: models.Model | None, split: str
  ) -> dict[str, tasks.Pass]:
    """Evaluates the masked tokens of all whole rows, with constant masks."""
    order = range(self._whole_rows(split))
    make = functools.partial(self._eval_rows, split)
    return dict(rows=tasks.Pass.over(self.score, order, self._size, make))

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    sums = found['rows']
    return tokens.scores(sums), tokens.in_pieces(sums, self._size)

  def baselines(self, split: str) -> dict[str, float]:
    """Computes how often the most common token of training is right."""
    guess = np.bincount(self._streams['train'].tokens).argmax()
    rows, hits = self.passes(None, split)['rows'], []
    for batch in map(rows.batch, range(rows.batches)):
      hits.append((batch['labels'] == guess)[batch['place'] >= 0])
    return dict(accuracy_of_commonest=float(np.concatenate(hits).mean()))

  def _details(self):
    masked = f'{self._masked} of {self._length}'
    return super()._details() | {'masked of a row': masked}

  def _whole_rows(self, split):
    return len(self._streams[split].tokens) // (self._length - 1)

  def _eval_rows(self, split, rows):
    draws = self._draws(np.random.default_rng(rows[0] // self._size))
    return self._masked_rows(split, rows, *draws)

  def _draws(self, rng):
    """Draws masked positions, kinds and other tokens, [R, P], for all hosts."""
    L, P, R = self._length, self._masked, self._size
    # Positions of the P smallest of L - 1 random numbers: all equally likely.
    order = rng.random((R, L - 1)).argpartition(P - 1, axis=1)[:, :P]
    kind = rng.random((R, P))
    other = self._ordinary[rng.integers(len(self._ordinary), size=(R, P))]
    return 1 + np.sort(order, axis=1).astype(np.int32), kind, other

  def _masked_rows(self, split, rows, positions, kind, other):
    L, P, R = self._length, self._masked, len(rows)
    places = rows[:, None] * (L - 1) + np.arange(L - 1)[None]
    ids = np.full((R, L), self._tokenizer.bos_id, np.int32)
    ids[:, 1:] = self._streams[split].tokens[places]
    labels = np.take_along_axis(ids, positions, axis=1)
    mask = self._tokenizer.mask_id
    seen = np.where(kind < 0.8, mask, np.where(kind < 0.9, other, labels))
    np.put_along_axis(ids, positions, seen.astype(np.int32), axis=1)
    return dict(
      tokens=ids,
      types=np.zeros((R, L), np.int32),
      lengths=np.full(R, L, np.int32),
      positions=positions,
      labels=labels,
      weights=np.ones((R, P), np.float32),
    )


build = MaskedLanguageModel
