# SPDX-License-Identifier: Apache-2.0
"""Tasks: the data, loss and scores of an experiment, one file a family."""

from collections.abc import Callable
import importlib
import pkgutil
from typing import Any, NamedTuple, Protocol

import numpy as np

from collab import imports, model_json
from collab.data import epochs, examples


class Pass(NamedTuple):
  """One computation over all examples of a split, for an evaluation.

  Attributes:
    rows: pure function (model, params, batch) -> pytree of arrays [R, ...].
    batch: i -> dict of numpy arrays [R, ...], with `place`, int [R]: which
      example a row is, -1 for one that only fills the batch up.
    batches: how many there are.
  """

  rows: Callable
  batch: Callable
  batches: int

  @classmethod
  def over(cls, rows: Callable, order, size: int, make: Callable) -> 'Pass':
    """The Pass that takes examples in some order, `size` of them at a time.

    Args:
      rows: see Pass.
      order: int [n], the examples.
      size: R.
      make: int [R] of examples -> dict of numpy arrays [R, ...].
    """
    order = np.asarray(order)

    def batch(i):
      at, place = epochs.part(i, len(order), size)
      found = order[at]
      return make(found) | dict(place=np.where(place < 0, -1, found))

    return cls(rows, batch, -(-len(order) // size))

  @classmethod
  def by_length(cls, rows, encoded, indices, size, most) -> 'Pass':
    """The Pass over padded rows of tokens, those of like length together.

    They are padded to powers of two, so that few programs are compiled.

    Args:
      rows: see Pass.
      encoded: examples.Rows.
      indices: int [n], which of them each example is, or [n, C] of choices.
      size: R.
      most: tokens of the longest batch.
    """
    lengths = encoded.lengths[indices]
    if lengths.ndim > 1:
      lengths = lengths.max(-1)

    def make(at):
      width = examples.width(encoded, indices[at], most)
      return examples.pad(encoded, indices[at], width)

    return cls.over(rows, np.argsort(lengths, kind='stable'), size, make)


class Task(Protocol):
  """An experiment's data, loss and scores; all that train.py knows of them.

  A task compiles nothing and knows neither devices nor names of parameters. A
  subclass may leave out what is not needed: meaning, unit, check, baselines,
  describe.

  Attributes:
    model_kwargs: fields of the model that the data decides.
    units_per_step: how many of `unit` a step takes, on all hosts.
    meaning: model_json.Meaning, what the model's ids and outputs stand for.
    unit: what the log counts: 'tokens', 'examples' or 'images'.
  """

  model_kwargs: dict
  units_per_step: int
  meaning: model_json.Meaning = model_json.Meaning()
  unit: str = 'examples'

  def check(self, model):
    """Refuses, before the first step, what would stop a later evaluation.

    Raises:
      ValueError: an example of a split that the model cannot take or the
        metrics cannot score.
    """

  def batch(self, step: int) -> dict:
    """This host's slice of batch `step` (0, 1, ...): a function of seed, step.

    A dict of numpy arrays [rows, ...].
    """

  def rows(self, step: int):
    """Which of the training examples, from 0, those are: int [any]."""

  def loss(self, model, params, batch: dict, rngs: dict) -> tuple:
    """(sum, weight, aux): the loss is sum / weight, aux a dict of sums."""

  def passes(self, model, split: str) -> dict[str, Pass]:
    """What is to be computed of 'val' (often, so quick) or 'test' (once)."""

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Scores and examples of what the passes computed.

    Args:
      split: 'val' or 'test'.
      found: for each pass its rows in the order of the examples, as NumPy
        arrays without NaN or infinity.

    Returns:
      dict of scores; and of what each example adds to them, as lists, from
      which resampling makes intervals.
    """

  def baselines(self, split: str) -> dict:
    """Scores that need no model."""
    return {}

  def describe(self) -> dict[str, Any]:
    """What the summary at the start shows."""
    return {}


def show(what: str, most: int, **columns):
  """Prints the first examples of the test set.

  Args:
    what: what an example is, in the plural.
    most: how many to show.
    **columns: name -> a text for each example of the set.
  """
  rows = list(zip(*columns.values(), strict=True))
  shown = min(most, len(rows))
  print(f'\nThe first {shown} of {len(rows)} {what} of the test set:')
  for row in rows[:most]:
    for name, text in zip(columns, row, strict=True):
      print(f'  {name:<10} {text}')
    print()


def names() -> list[str]:
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name: str, **fields) -> Task:
  """A task by the name of its file or the import path of its class.

  ValueError or TypeError as for variants.
  """
  make = imports.subclass(name, Task)
  if not make and name not in names():
    raise ValueError(f'No task {name!r}; there are {", ".join(names())}.')
  if fields['seed'] < 0:
    raise ValueError(f'seed={fields["seed"]}; expected at least 0.')
  make = make or importlib.import_module(f'{__name__}.{name}').build
  return make(**fields)
