# SPDX-License-Identifier: Apache-2.0
"""Extractive question answering: SQuAD v1.1 and v2.0, and similar data.

The model gives each token two logits: that the answer begins there, and that it
ends there. Axes: B windows, L tokens of a row.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from collab import checks, models, tasks
from collab.data import cache, examples, tokenizer_training, windows
from collab.data.readers import squad_files
from collab.data.samples import questions
from collab.data.tokenizer import Tokenizer
from collab.metrics import spans, tokens
from collab.model_json import Meaning

SHOWN = 5  # number of printed questions
FORBIDDEN = -1e9  # logit of a position where no answer begins or ends


@dataclasses.dataclass(eq=False, kw_only=True)
class Squad(tasks.OfConfig):
  """Extractive question answering; see tasks.Task.

  `data` has the fields of `read`; row_length, stride and question_length of
  windows.cut; batch_size (windows of a global batch).

  Attributes:
    max_answer_length: maximum number of tokens of an answer.
    null_threshold: v2.0 only: the margin by which "no answer" must outscore the
      best span to be the answer.
  """

  max_answer_length: int = 30
  null_threshold: float = 0.0

  def __post_init__(self):
    data = self.data
    self._length, self._version = data.row_length, data.version
    if math.isnan(self.null_threshold):
      raise ValueError('task.null_threshold=nan; expected a number.')
    checks.at_least('task.max_answer_length', self.max_answer_length, 1)
    self.questions, self.tokenizer = read(data, self.workdir)
    cut = functools.partial(
      windows.cut,
      tokenizer=self.tokenizer,
      row_length=data.row_length,
      stride=data.stride,
      question_length=data.question_length,
    )
    self._cut = functools.cache(lambda split: cut(self.questions.read(split)))
    self._train = self._cut('train')
    for split in ('val', 'test'):
      self.questions.read(split)  # reports bad input early
    self.units_per_step = data.batch_size
    self.rows = self.epochs(len(self._train.rows))
    with_none = self._version == 'v2.0'
    self._threshold = self.null_threshold if with_none else math.inf
    self.model_kwargs = dict(vocab_size=self.tokenizer.vocab_size, head='span')
    self.meaning = Meaning(self.tokenizer.fingerprint)

  def check(self, model: models.Model) -> None:
    """See tasks.Task. Cuts the questions that are evaluated into windows."""
    for split in ('val', 'test'):
      self._cut(split)

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Makes tokens, types [B, L], lengths [B], spans [B, 2]: first and last."""
    rows = self.rows(step)
    inputs = examples.pad(self._train.rows, rows, self._length)
    return inputs | dict(spans=self._train.spans[rows])

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    """Computes -(log p(first) + log p(last)) / 2 over <bos> and the window."""
    logits = _logits(model, params, batch, rngs)
    weights, sums = jnp.ones(len(logits)), []
    for side in (0, 1):
      total, weight = tokens.cross_entropy(
        logits[..., side], batch['spans'][:, side], weights
      )
      sums.append(total)
    right = (logits.argmax(1) == batch['spans']).all(1).sum()
    return sum(sums) / 2, weight, dict(accuracy=right)

  def score(
    self, model: models.Model, params: Mapping, batch: dict
  ) -> jax.Array:
    """Finds the best span of each window, see `best_spans`."""
    return best_spans(_logits(model, params, batch), self.max_answer_length)

  def passes(self, model: models.Model, split: str) -> dict[str, tasks.Pass]:
    """Evaluates the windows, in batches of similar length."""
    rows = self._cut(split).rows
    every, size = np.arange(len(rows)), self.units_per_step
    return dict(
      windows=tasks.Pass.by_length(self.score, rows, every, size, self._length)
    )

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes exact and f1 in percent; more for v2.0, see scores_or_none."""
    asked = self.questions.read(split)
    texts, nulls = self.answers(split, found['windows'])
    pairs = zip(texts, nulls, strict=True)
    given = [text if null <= self._threshold else '' for text, null in pairs]
    answers = [q.answers for q in asked]
    if split == 'test':
      tasks.show(
        'questions',
        SHOWN,
        question=[q.text for q in asked],
        answer=[' | '.join(dict.fromkeys(x)) or '(none)' for x in answers],
        ours=[text or '(none)' for text in given],
      )
    rows = spans.of_questions(given, answers, self._version == 'v2.0')
    return self._scores(texts, answers, nulls), rows

  def baselines(self, split: str) -> dict[str, float]:
    """Computes exact and f1 of rules that need no model, for 'test'."""
    if split != 'test':
      return {}
    asked, train = (self.questions.read(s) for s in ('test', 'train'))
    answers = [q.answers for q in asked]
    ways = dict(
      first_name=questions.first_name, frequent=questions.frequent(train)
    )
    if self._version == 'v2.0':
      ways['no_answer'] = lambda question: ''
    found, given = {}, np.full(len(asked), self._threshold)
    for name, say in ways.items():
      scores = self._scores(list(map(say, asked)), answers, given)
      found |= {f'{m}_of_{name}': scores[m] for m in ('exact', 'f1')}
    return found

  def _scores(self, texts, answers, nulls):
    if self._version == 'v1.1':
      return spans.scores(texts, answers)
    return spans.scores_or_none(texts, answers, nulls, self._threshold)

  def answers(
    self, split: str, best: np.ndarray
  ) -> tuple[list[str], np.ndarray]:
    """Finds each question's best text, and how much better "no answer" is.

    The answer is the best span over all windows. "No answer" gets its lowest
    score over the windows, because a window may lack an answer that another one
    has (Devlin et al., 2019, section 4.3).

    Args:
      split: split of the questions.
      best: `best_spans` of all windows of these questions.

    Returns:
      A list of texts, and float32 [questions].
    """
    asked, cut = self.questions.read(split), self._cut(split)
    texts, nulls = [], []
    starts = np.searchsorted(cut.question, np.arange(len(asked) + 1))
    for q, begin, end in zip(asked, starts, starts[1:], strict=False):
      window = begin + int(best[begin:end, 0].argmax())
      score, _, first, last = best[window]
      texts.append(cut.text(q.context, window, int(first), int(last)))
      nulls.append(best[begin:end, 1].min() - score)
    return texts, np.array(nulls)

  def describe(self) -> dict[str, Any]:
    cut = self._train
    found = len(np.unique(cut.question[cut.spans[:, 0] > 0]))
    wanted = sum(bool(q.answers) for q in self.questions.read('train'))
    cuts = map(self._cut, ('train', 'val', 'test'))
    arrays = [x for part in cuts for x in (*part.rows[:3], part.spans)]
    return {
      'questions': f'{self.questions.name} {self._version}',
      'vocabulary': self.tokenizer.vocab_size,
      'questions to train on': len(cut.characters),
      'their windows': len(cut.rows),
      'answers in no window': wanted - found,
      'questions truncated': cut.truncated,
      'steps_per_epoch': self.rows.steps_per_epoch,
      'checksum': cache.checksum(*arrays),
    }


build = Squad


def read(
  data: ConfigDict, workdir: str
) -> tuple[squad_files.Questions, Tokenizer]:
  """Reads the questions and their tokenizer.

  Args:
    data: data fields of a config, with
      corpus: 'sample', or a name in TFDS without the version, unless path is
        given.
      version: 'v1.1', or 'v2.0' that has questions without an answer.
      path: folder of local files, see squad_files.local.
      files: names of files in it, if they are unusual.
      vocab_size: size of the BPE trained on the training split.
      vocabulary: a tokenizer.json to use instead, '' for none.
    workdir: folder that keeps the tokenizer for later use.

  Returns:
    squad_files.Questions, tokenizer.Tokenizer.

  Raises:
    ValueError: corpus and path are both missing, or the readers refuse the
      data.
  """
  if data.path:
    source = squad_files.local(data.path, data.version, tuple(data.files))
  elif data.corpus == 'sample':
    source = questions.sample(data.version)
  else:
    source = squad_files.tfds(data.corpus, data.version)
  kept = source._replace(
    readers={s: functools.cache(read) for s, read in source.readers.items()}
  )

  def lines():
    train = kept.read('train')
    yield from dict.fromkeys(q.context for q in train)
    yield from (q.text for q in train)

  return kept, tokenizer_training.prepare(
    workdir, data.vocabulary, lines, data.vocab_size
  )


def _logits(model, params, batch, rngs=None):
  """Computes logits [B, L, 2] in float32; FORBIDDEN where no answer can be."""
  logits = model.apply({'params': params}, batch, rngs=rngs)
  allowed = allow(batch['types'], batch['lengths'])[..., None]
  return jnp.where(allowed, logits.astype(jnp.float32), FORBIDDEN)


def allow(types: jax.Array, lengths: jax.Array) -> jax.Array:
  """Allows <bos> and the window without the last <eos>: bool [B, L]."""
  places = jnp.arange(types.shape[1])[None]
  window = (types == 1) & (places < lengths[:, None] - 1)
  return window | (places == 0)


def best_spans(logits: jax.Array, longest: int) -> jax.Array:
  """Finds max_{0 < i <= j < i + longest} start_i + end_j for each row.

  Among equals, the first start wins, then the shortest.

  Args:
    logits: float32 [B, L, 2], FORBIDDEN where there is no answer.
    longest: maximum number of tokens.

  Returns:
    float32 [B, 4]: the score, that of place 0 (start_0 + end_0), i and j.
  """
  B, L, _ = logits.shape
  start, end = logits[:, 1:, 0], logits[:, 1:, 1]
  W = min(longest, L - 1)
  ends = jnp.pad(end, ((0, 0), (0, W - 1)), constant_values=2 * FORBIDDEN)
  ahead = jnp.stack([ends[:, w : w + L - 1] for w in range(W)], 2)
  scores = (start[..., None] + ahead).reshape(B, -1)
  place = scores.argmax(1)
  first, more = 1 + place // W, place % W
  best, null = scores.max(1), logits[:, 0].sum(1)
  return jnp.stack([best, null, first, first + more], 1)
