# SPDX-License-Identifier: Apache-2.0
"""Classification and regression of one or two texts: GLUE and similar data.

Axes: B examples of a batch, C choices of an example, L tokens of a row.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collab import checks, models, tasks
from collab.data import cache, examples, tokenizer_training
from collab.data.readers import glue
from collab.data.samples import classification
from collab.metrics import labels, tokens
from collab.model_json import Meaning


class Subtask(NamedTuple):
  """A data set of a benchmark.

  Attributes:
    metric: function of the model's outputs (float [N, outputs]) and the N
      Examples -> dict of scores, 'score' among them.
    form: form of the bundled sample, a key of `classification.FORMS`.
    outputs: number of outputs: classes, choices, or 1 for a regression.
    head: head of the encoder, 'classify' or 'choice'.
    classes: names of the outputs, if they are classes.
  """

  metric: Callable
  form: str
  outputs: int = 2
  head: str = 'classify'
  classes: tuple[str, ...] = ()


class Family(NamedTuple):
  """A benchmark, with its reader and its sub-tasks.

  Attributes:
    reader: module with `local` and `tfds`, which return examples.Parts.
    subtasks: {name: Subtask}.
  """

  reader: ModuleType
  subtasks: dict[str, Subtask]


def by_class(scores: Callable) -> Callable:
  """Makes a Subtask's metric from one of labels, by the largest output."""
  return lambda outputs, rows: scores(gold(rows), outputs.argmax(-1))


def by_value(scores: Callable) -> Callable:
  """Makes a Subtask's metric from one of numbers; predicts the one output."""
  return lambda outputs, rows: scores(gold(rows), outputs[:, 0])


def gold(rows: Iterable[examples.Example]) -> np.ndarray:
  """Returns the labels of Examples, int [N] or float [N]."""
  return np.array([example.label for example in rows])


ACCURACY, F1 = by_class(labels.accuracy_scores), by_class(labels.f1_scores)
GLUE = Family(
  glue,
  dict(
    mnli=Subtask(ACCURACY, 'relation', 3, classes=glue.TABLES['mnli'].labels),
    cola=Subtask(
      by_class(labels.matthews_scores),
      'family',
      classes=('unacceptable', 'acceptable'),
    ),
    sst2=Subtask(ACCURACY, 'family', classes=('negative', 'positive')),
    mrpc=Subtask(F1, 'same', classes=('not_equivalent', 'equivalent')),
    qqp=Subtask(F1, 'same', classes=('not_duplicate', 'duplicate')),
    stsb=Subtask(by_value(labels.correlation_scores), 'share', 1),
    qnli=Subtask(ACCURACY, 'same', classes=glue.ENTAILED),
    rte=Subtask(ACCURACY, 'same', classes=glue.ENTAILED),
    wnli=Subtask(ACCURACY, 'same', classes=glue.ENTAILED[::-1]),
  ),
)


@dataclasses.dataclass(eq=False, kw_only=True)
class Classification(tasks.OfConfig):
  """Classification or regression of one or two texts, or a choice among some.

  `data` has corpus, path, row_length, batch_size, vocab_size, vocabulary (a
  tokenizer.json instead of one trained on the training texts), and what `read`
  needs.

  Attributes:
    subtask: says which data and outputs these are.

  Raises:
    ValueError: there is no such sub-task, or the data is faulty.
  """

  subtask: str

  def read(self) -> tuple[Subtask, examples.Parts]:
    """Returns the sub-task, and a reader of its examples."""
    raise NotImplementedError

  def __post_init__(self):
    data = self.data
    self._source = data.path or data.corpus
    self._subtask, self._parts = self.read()
    self._length, self.units_per_step = data.row_length, data.batch_size
    train = list(self._parts.readers['train']())
    self._tokenizer = tokenizer_training.prepare(
      self.workdir,
      data.vocabulary,
      lambda: chain.from_iterable(example.texts for example in train),
      data.vocab_size,
    )
    self._train = self._encoded(train)
    self._labels = gold(train)
    self.rows = self.epochs(len(train))
    self._dev = {}  # {part to evaluate: (Examples, Rows)}
    for part in (*self._parts.val.values(), *self._parts.test.values()):
      if part not in self._dev:  # reports bad input early
        rows = list(self._parts.readers[part]())
        self._dev[part] = rows, self._encoded(rows)
    self.model_kwargs = dict(
      vocab_size=self._tokenizer.vocab_size,
      head=self._subtask.head,
      outputs=self._subtask.outputs if self._subtask.head != 'choice' else 0,
    )
    classes = self._subtask.classes
    self.meaning = Meaning(self._tokenizer.fingerprint, classes)

  def batch(self, step: int) -> dict[str, np.ndarray]:
    rows = self.rows(step)
    batch = examples.pad(self._train, self._indices(rows), self._length)
    kind = np.float32 if self._regression else np.int32
    return batch | dict(labels=self._labels[rows].astype(kind))

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    outputs = model.apply({'params': params}, batch, rngs=rngs)
    weights = jnp.ones(batch['labels'].shape)
    if self._regression:
      error = outputs[:, 0].astype(jnp.float32) - batch['labels']
      return jnp.square(error).sum(), weights.sum(), {}
    total, weight = tokens.cross_entropy(outputs, batch['labels'], weights)
    right, _ = tokens.accuracy(outputs, batch['labels'], weights)
    return total, weight, dict(accuracy=right)

  def passes(self, model: models.Model, split: str) -> dict[str, tasks.Pass]:
    """Computes the `outputs` of each part, in batches of similar length."""
    found = {}
    for name, part in getattr(self._parts, split).items():
      rows, encoded = self._dev[part]
      size = min(len(rows), self.units_per_step)
      indices = self._indices(np.arange(len(rows)))
      found[name] = tasks.Pass.by_length(
        outputs, encoded, indices, size, self._length
      )
    return found

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes the sub-task's metrics; several parts (MNLI) have each its name.

    Then 'score' is the mean of theirs.
    """
    scores, kept = {}, {}
    for name, part in getattr(self._parts, split).items():
      rows, _ = self._dev[part]
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

  def baselines(self, split: str) -> dict[str, float]:
    """Computes 'score' of one constant answer: training's majority or mean."""
    guess = np.zeros((1, self._subtask.outputs), np.float32)
    if self._regression:
      guess[:] = self._labels.mean()
    else:
      guess[:, np.bincount(self._labels).argmax()] = 1
    scores = []
    for part in getattr(self._parts, split).values():
      rows, _ = self._dev[part]
      found = self._subtask.metric(guess.repeat(len(rows), 0), rows)
      scores.append(found['score'])
    return dict(majority_score=float(np.mean(scores)))

  def describe(self) -> dict[str, Any]:
    shown = dict(subtask=self.subtask, data=self._source)
    shown['vocabulary'] = self._tokenizer.vocab_size
    shown['examples'] = len(self._labels)
    shown['epoch'] = f'{self.rows.steps_per_epoch:.1f} steps'
    shown['rows cut'] = f'{self._train.truncated / len(self._train):.1%}'
    for part, (rows, _) in self._dev.items():
      shown[f'examples in {part}'] = len(rows)
    for path, count in self._parts.skipped.items():
      shown[f'rows left out of {path}'] = count
    parts = [(self._train, self._labels)]
    parts += [(encoded, gold(rows)) for rows, encoded in self._dev.values()]
    arrays = ((*encoded[:3], labels) for encoded, labels in parts)
    shown['checksum'] = cache.checksum(*chain.from_iterable(arrays))
    return shown

  @property
  def _regression(self):
    return self._subtask.outputs == 1

  def _encoded(self, rows):
    texts = (example.texts for example in rows)
    if self._subtask.head == 'choice':
      texts = ((a, b) for a, *choices in texts for b in choices)
    return examples.encode(texts, self._tokenizer, self._length)

  def _indices(self, rows):
    """Returns positions of examples in Rows: [B], or [B, C] for choices."""
    if self._subtask.head != 'choice':
      return rows
    C = self._subtask.outputs
    return rows[:, None] * C + np.arange(C)


@dataclasses.dataclass(eq=False, kw_only=True)
class Benchmark(Classification):
  """Classification on one sub-task of a benchmark.

  `data` also has malformed, see glue.local.

  Attributes:
    family: Family, of whose sub-tasks it is one.
  """

  family: Family = GLUE

  def read(self) -> tuple[Subtask, examples.Parts]:
    """Reads local files, the sample, or TFDS."""
    name, family, data = self.subtask, self.family, self.data
    checks.one_of('task.subtask', name, family.subtasks)
    found = family.subtasks[name]
    if data.path:
      return found, family.reader.local(name, data.path, data.malformed)
    if data.corpus == 'sample':
      return sample(found)
    return found, family.reader.tfds(name, data.corpus)

  def check(self, model: models.Model) -> None:
    """See tasks.Task. Labels from TFDS have not been checked by the reader."""
    most = 5 if self._regression else self._subtask.outputs - 1
    found = {part: gold(rows) for part, (rows, _) in self._dev.items()}
    for part, values in dict(train=self._labels, **found).items():
      if not len(values):
        raise ValueError(f"{self._source}: '{part}' has no examples.")
      wrong = np.flatnonzero(~((values >= 0) & (values <= most)))
      if len(wrong):
        raise ValueError(
          f"{self._source}: example {wrong[0] + 1} of '{part}' has the label "
          f'{values[wrong[0]]}, expected 0 to {most}.'
        )


build = Benchmark


def outputs(model: models.Model, params: Mapping, batch: dict) -> jax.Array:
  """Computes the outputs of a model, float32 [R, outputs]."""
  return model.apply({'params': params}, batch).astype(jnp.float32)


def sample(subtask: Subtask) -> tuple[Subtask, examples.Parts]:
  """Returns the bundled sample of a sub-task's form, and its own classes."""
  classes = classification.CLASSES.get(subtask.form, ())
  parts = classification.parts(subtask.form)
  return subtask._replace(classes=classes), parts
