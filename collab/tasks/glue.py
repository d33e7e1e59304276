# SPDX-License-Identifier: Apache-2.0
"""Classification and regression of one or two texts: GLUE and what is like it.

Axes: B examples of a batch, C choices of an example, L tokens of a row.
"""

from collections.abc import Callable
import functools
from itertools import chain
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from collab import metrics, tasks
from collab.data import epochs, examples, tokenizer_training
from collab.data.readers import glue
from collab.data.samples import classification
from collab.metrics import labels
from collab.model_json import Meaning


class Subtask(NamedTuple):
  """What a sub-task is.

  Attributes:
    metric: function of the model's outputs (float [N, outputs]) and the N
      Examples -> dict of scores, 'score' among them.
    form: of the sample, a key of `classification.FORMS`.
    outputs: of the model: classes, choices, or 1 of a regression.
    head: of the encoder, 'classify' or 'choice'.
    classes: names of the outputs, if they are classes, as TFDS has them.
  """

  metric: Callable
  form: str
  outputs: int = 2
  head: str = 'classify'
  classes: tuple[str, ...] = ()


class Family(NamedTuple):
  """A benchmark: where its files are read, and its sub-tasks.

  Attributes:
    local: (sub-task, path, malformed) -> examples.Parts.
    tfds: (sub-task, corpus) -> examples.Parts.
    subtasks: by name.
  """

  local: Callable
  tfds: Callable
  subtasks: dict[str, Subtask]


def by_class(scores):
  """The metric that takes the class of the largest output."""
  return lambda outputs, rows: scores(gold(rows), outputs.argmax(-1))


def by_value(scores):
  """The metric that takes the one output."""
  return lambda outputs, rows: scores(gold(rows), outputs[:, 0])


def gold(rows):
  """The labels of Examples, int [N] or float [N]."""
  return np.array([example.label for example in rows])


GLUE = Family(
  glue.local,
  glue.tfds,
  dict(
    mnli=Subtask(
      by_class(labels.accuracy_scores),
      'relation',
      3,
      classes=glue.TABLES['mnli'].labels,
    ),
    cola=Subtask(
      by_class(labels.matthews_scores),
      'family',
      classes=('unacceptable', 'acceptable'),
    ),
    sst2=Subtask(
      by_class(labels.accuracy_scores),
      'family',
      classes=('negative', 'positive'),
    ),
    mrpc=Subtask(
      by_class(labels.f1_scores),
      'same',
      classes=('not_equivalent', 'equivalent'),
    ),
    qqp=Subtask(
      by_class(labels.f1_scores),
      'same',
      classes=('not_duplicate', 'duplicate'),
    ),
    stsb=Subtask(by_value(labels.correlation_scores), 'share', 1),
    qnli=Subtask(
      by_class(labels.accuracy_scores), 'same', classes=glue.ENTAILED
    ),
    rte=Subtask(
      by_class(labels.accuracy_scores), 'same', classes=glue.ENTAILED
    ),
    wnli=Subtask(
      by_class(labels.accuracy_scores), 'same', classes=glue.ENTAILED[::-1]
    ),
  ),
)


class Classification:
  """One sub-task of a family; see tasks.Task.

  Args:
    data: fields of `read`, and row_length, batch_size, vocab_size, vocabulary
      (a tokenizer.json instead of one trained on the training texts).
    workdir: keeps the tokenizer.
    seed: of the order of the data.
    shard: (index, count) of this host.
    subtask: a key of the family's.
    family: Family.

  Raises:
    ValueError: no such sub-task; whatever is wrong with the data.
  """

  unit = 'examples'

  def __init__(self, data, *, workdir, seed, shard, subtask, family=GLUE):
    if subtask not in family.subtasks:
      legal = ', '.join(family.subtasks)
      raise ValueError(f'No sub-task {subtask!r}; there are {legal}.')
    self._subtask, self._name = family.subtasks[subtask], subtask
    self._source = data.path or data.corpus
    self._parts = read(subtask, family, data.corpus, data.path, data.malformed)
    self._length, self.units_per_step = data.row_length, data.batch_size
    train = list(self._parts.readers['train']())
    self._tokenizer = tokenizer_training.prepare(
      workdir,
      data.vocabulary,
      lambda: chain.from_iterable(example.texts for example in train),
      data.vocab_size,
    )
    self._train = self._encoded(train)
    self._labels = gold(train)
    self.rows = epochs.Epochs(len(train), data.batch_size, seed, shard)
    self._dev = functools.cache(self._part)
    for part in self._evaluated():  # bad input shows early
      self._dev(part)
    self.model_kwargs = dict(
      vocab_size=self._tokenizer.vocab_size,
      head=self._subtask.head,
      outputs=self._subtask.outputs if self._subtask.head != 'choice' else 0,
    )
    # The sample's labels are others than those of the data it stands for.
    form = '' if data.path or data.corpus != 'sample' else self._subtask.form
    classes = classification.CLASSES.get(form, self._subtask.classes)
    self.meaning = Meaning(self._tokenizer.fingerprint, classes)

  def check(self, model):
    """See tasks.Task. Local files were checked when read, TFDS' labels not."""
    C = self._subtask.outputs
    legal = '0 to 5' if self._regression else f'0 to {C - 1}'
    most = 5 if self._regression else C - 1
    found = dict(train=self._labels)
    found |= {part: gold(self._dev(part)[0]) for part in self._evaluated()}
    for part, values in found.items():
      if not len(values):
        raise ValueError(f"{self._source}: '{part}' has no examples.")
      wrong = np.flatnonzero(~((values >= 0) & (values <= most)))
      if len(wrong):
        raise ValueError(
          f"{self._source}: example {wrong[0] + 1} of '{part}' has the label "
          f'{values[wrong[0]]}, expected {legal}.'
        )

  def batch(self, step):
    rows = self.rows(step)
    batch = examples.pad(self._train, self._indices(rows), self._length)
    kind = np.float32 if self._regression else np.int32
    return batch | dict(labels=self._labels[rows].astype(kind))

  def loss(self, model, params, batch, rngs):
    outputs = model.apply({'params': params}, batch, rngs=rngs)
    weights = jnp.ones(batch['labels'].shape)
    if self._regression:
      error = outputs[:, 0].astype(jnp.float32) - batch['labels']
      return jnp.square(error).sum(), weights.sum(), {}
    total, weight = metrics.cross_entropy(outputs, batch['labels'], weights)
    right, _ = metrics.accuracy(outputs, batch['labels'], weights)
    return total, weight, dict(accuracy=right)

  def score(self, model, params, batch):
    """The outputs of the model, float32 [R, outputs]."""
    return model.apply({'params': params}, batch).astype(jnp.float32)

  def passes(self, model, split):
    return {
      name: self._pass(part)
      for name, part in getattr(self._parts, split).items()
    }

  def metrics(self, split, found):
    """The sub-task's metrics; of several parts (MNLI) each with its name.

    Then 'score' is the mean of theirs.
    """
    scores, kept = {}, {}
    for name, part in getattr(self._parts, split).items():
      rows, _ = self._dev(part)
      outputs = found[name]
      scores[name] = self._subtask.metric(outputs, rows)
      ours = outputs[:, 0] if self._regression else outputs.argmax(-1)
      for key, x in dict(gold=gold(rows), predicted=ours).items():
        kept[f'{key}_{name}' if name else key] = x.tolist()
    if list(scores) == ['']:
      return scores[''], kept
    mean = float(np.mean([x['score'] for x in scores.values()]))
    return dict(score=mean) | {
      f'{key}_{name}': value
      for name, of_part in scores.items()
      for key, value in of_part.items()
      if key != 'score'
    }, kept

  def baselines(self, split):
    """'score' by guessing the majority of training."""
    parts = getattr(self._parts, split).values()
    found = [self._majority(self._dev(part)[0]) for part in parts]
    return dict(majority_score=float(np.mean(found)))

  def describe(self):
    shown = dict(subtask=self._name, data=self._source)
    shown['vocabulary'] = self._tokenizer.vocab_size
    shown['examples'] = len(self._labels)
    shown['epoch'] = f'{self.rows.steps_per_epoch:.1f} steps'
    shown['rows cut'] = f'{self._train.truncated / len(self._train):.1%}'
    for part in self._evaluated():
      shown[f'examples in {part}'] = len(self._dev(part)[0])
    for path, count in self._parts.skipped.items():
      shown[f'rows left out of {path}'] = count
    return shown

  @property
  def _regression(self):
    return self._subtask.outputs == 1

  def _evaluated(self):
    """The parts that 'val' and 'test' have, each once."""
    val, test = self._parts.val.values(), self._parts.test.values()
    return list(dict.fromkeys([*val, *test]))

  def _encoded(self, rows):
    texts = (example.texts for example in rows)
    if self._subtask.head == 'choice':
      texts = ((a, b) for a, *choices in texts for b in choices)
    return examples.encode(texts, self._tokenizer, self._length)

  def _part(self, part):
    """(Examples, Rows) of a part to evaluate."""
    rows = list(self._parts.readers[part]())
    return rows, self._encoded(rows)

  def _indices(self, rows):
    """Places of examples in Rows: [B], or [B, C] of choices."""
    if self._subtask.head != 'choice':
      return rows
    C = self._subtask.outputs
    return rows[:, None] * C + np.arange(C)

  def _pass(self, part):
    """The outputs of a part: examples of like length together."""
    rows, encoded = self._dev(part)
    n, size = len(rows), min(len(rows), self.units_per_step)
    lengths = encoded.lengths[self._indices(np.arange(n))]
    order = np.argsort(lengths.reshape(n, -1).max(-1), kind='stable')

    def batch(rows):
      indices = self._indices(rows)
      width = examples.width(encoded, indices, self._length)
      return examples.pad(encoded, indices, width)

    return tasks.Pass.over(self.score, order, size, batch)

  def _majority(self, rows):
    """The score of one answer for all: training's majority or mean."""
    guess = np.zeros((len(rows), self._subtask.outputs), np.float32)
    if self._regression:
      guess[:] = self._labels.mean()
    else:
      guess[:, np.bincount(self._labels).argmax()] = 1
    return self._subtask.metric(guess, rows)['score']


build = Classification


def read(subtask, family, corpus, path, malformed):
  """The parts of a sub-task: local files, the sample, or TFDS."""
  if path:
    return family.local(subtask, path, malformed)
  if corpus == 'sample':
    return classification.parts(family.subtasks[subtask].form)
  return family.tfds(subtask, corpus)
