# SPDX-License-Identifier: Apache-2.0
"""Classification and regression of one or two texts: GLUE and what is like it.

Axes: B examples of a batch, C choices of an example, L tokens of a row.
"""

from collections.abc import Callable
import functools
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collab import metrics
from collab.data import examples, glue, sentences, tokenizer
from collab.data.epochs import Epochs, in_order
from collab.metrics import labels
from collab.model_json import Meaning


class Subtask(NamedTuple):
  """What a sub-task is.

  Attributes:
    metric: function of the model's outputs (float [N, outputs]) and the N
      Examples -> dict of scores, 'score' among them.
    form: of the sample, a key of `sentences.FORMS`.
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
    self._tokenizer = tokenizer.prepare(
      workdir,
      data.vocabulary,
      lambda: chain.from_iterable(example.texts for example in train),
      data.vocab_size,
    )
    self._train = self._encoded(train)
    self._labels = gold(train)
    self.rows = Epochs(len(train), data.batch_size, seed, shard)
    self._dev, self._program = functools.cache(self._part), (None, None)
    for part in self._evaluated():  # bad input shows early
      self._dev(part)
    self.model_kwargs = dict(
      vocab_size=self._tokenizer.vocab_size,
      head=self._subtask.head,
      outputs=self._subtask.outputs if self._subtask.head != 'choice' else 0,
    )
    # The sample's labels are others than those of the data it stands for.
    form = '' if data.path or data.corpus != 'sample' else self._subtask.form
    classes = sentences.CLASSES.get(form, self._subtask.classes)
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

  def inputs(self, batch):
    return ({key: batch[key] for key in ('tokens', 'types', 'lengths')},)

  def loss(self, apply, params, batch, rngs):
    outputs = apply({'params': params}, *self.inputs(batch), rngs=rngs)
    weights = jnp.ones(batch['labels'].shape)
    if self._regression:
      error = outputs[:, 0].astype(jnp.float32) - batch['labels']
      return jnp.square(error).sum(), weights.sum(), {}
    total, weight = metrics.cross_entropy(outputs, batch['labels'], weights)
    right, _ = metrics.accuracy(outputs, batch['labels'], weights)
    return total, weight, dict(accuracy=right)

  def evaluate(self, model, params, split):
    """The sub-task's metrics, and 'score' by guessing the majority of training.

    Of several parts (MNLI): each metric with the part's name, and their mean
    score.
    """
    found, kept, sound = {}, {}, True
    for name, part in getattr(self._parts, split).items():
      rows, encoded = self._dev(part)
      outputs = self._outputs(model, params, encoded, len(rows))
      finite = bool(np.isfinite(outputs).all())
      outputs = np.nan_to_num(outputs)
      scores = metrics.nan_unless(finite, self._subtask.metric(outputs, rows))
      found[name] = scores | dict(majority_score=self._majority(rows))
      sound &= finite
      ours = outputs[:, 0] if self._regression else outputs.argmax(-1)
      for key, x in dict(gold=gold(rows), predicted=ours).items():
        kept[f'{key}_{name}' if name else key] = x.tolist()
    self.examples = kept if sound else {}
    if list(found) == ['']:
      return found['']
    means = {
      key: float(np.mean([scores[key] for scores in found.values()]))
      for key in ('score', 'majority_score')
    }
    return means | {
      f'{key}_{name}': value
      for name, scores in found.items()
      for key, value in scores.items()
      if key not in means
    }

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

  def _outputs(self, model, params, encoded, n):
    """The model's outputs [n, outputs]: like lengths together, each once."""
    found = np.zeros((n, self._subtask.outputs), np.float32)
    everything = self._indices(np.arange(n))
    order = np.argsort(
      encoded.lengths[everything].reshape(n, -1).max(-1), kind='stable'
    )
    apply = self._compiled(model)
    for places, valid in in_order(n, min(n, self.units_per_step)):
      rows = order[places]
      indices = self._indices(rows)
      width = examples.width(encoded, indices, self._length)
      batch = examples.pad(encoded, indices, width)
      outputs = np.asarray(apply(params, batch), np.float32)
      found[rows[valid]] = outputs[valid]
    return found

  def _compiled(self, model):
    """(params, batch) -> outputs, compiled once for all evaluations."""
    if self._program[0] is not model:
      program = jax.jit(lambda params, x: model.apply({'params': params}, x))
      self._program = model, program
    return self._program[1]

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
    return sentences.parts(family.subtasks[subtask].form)
  return family.tfds(subtask, corpus)
