# SPDX-License-Identifier: Apache-2.0
"""Tasks: the data, loss and scores of an experiment; one file a family."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from collab import checks, imports, model_json, models
from collab.data import epochs, examples

if TYPE_CHECKING:
  from ml_collections import ConfigDict


class Pass(NamedTuple):
  """One computation over all examples of a split, for an evaluation.

  Attributes:
    rows: pure function (model, params, batch) -> pytree of arrays [R, ...]; no
      row depends on another one, so that devices can share them.
    batch: function i -> dict of numpy arrays [R, ...], with `place`, int [R]:
      the example of each row, -1 for padding.
    batches: number of batches.
  """

  rows: Callable
  batch: Callable
  batches: int

  @classmethod
  def over(
    cls, rows: Callable, order: ArrayLike, size: int, make: Callable
  ) -> 'Pass':
    """Makes the Pass over examples in some order, `size` of them at a time.

    Args:
      rows: see Pass.
      order: int [n], the examples.
      size: R.
      make: function int [R] of examples -> dict of numpy arrays [R, ...].
    """
    order = np.asarray(order)

    def batch(i):
      at, place = epochs.part(i, len(order), size)
      found = order[at]
      return make(found) | dict(place=np.where(place < 0, -1, found))

    return cls(rows, batch, -(-len(order) // size))

  @classmethod
  def by_length(
    cls,
    rows: Callable,
    encoded: examples.Rows,
    indices: np.ndarray,
    size: int,
    most: int,
  ) -> 'Pass':
    """Makes the Pass over padded rows of tokens, in batches of similar length.

    Rows are padded to powers of two, so that few programs are compiled.

    Args:
      rows: see Pass.
      encoded: examples.Rows.
      indices: int [n], the row of each example, or [n, C] for choices.
      size: R.
      most: maximum number of tokens of a row.
    """
    lengths = encoded.lengths[indices]
    if lengths.ndim > 1:
      lengths = lengths.max(-1)

    def make(at):
      width = examples.width(encoded, indices[at], most)
      return examples.pad(encoded, indices[at], width)

    return cls.over(rows, np.argsort(lengths, kind='stable'), size, make)


class Task(Protocol):
  """The data, loss and scores of an experiment; train.py knows nothing else.

  A task compiles nothing and does not depend on devices or on names of
  parameters. A subclass may omit meaning, unit, check, baselines and describe.

  Attributes:
    model_kwargs: fields of the model that the data decides.
    units_per_step: how many of `unit` a step takes, over all hosts.
    meaning: model_json.Meaning, of the model's ids and outputs.
    unit: what the log counts: 'tokens', 'examples' or 'images'.
  """

  model_kwargs: dict
  units_per_step: int
  meaning: model_json.Meaning = model_json.Meaning()
  unit: str = 'examples'

  def check(self, model: models.Model) -> None:
    """Raises before the first step what would stop a later evaluation.

    Raises:
      ValueError: the model does not support an example of a split, or the
        metrics cannot score it.
    """

  def batch(self, step: int) -> dict:
    """Makes this host's slice of batch `step` (0, 1, ...), from seed and step.

    It is a dict of numpy arrays [rows, ...].
    """

  def rows(self, step: int) -> np.ndarray:
    """Returns which training examples these are, from 0: int [any]."""

  def loss(
    self, model: models.Model, params: Mapping, batch: dict, rngs: dict
  ) -> tuple:
    """Computes (sum, weight, aux): loss = sum / weight, aux a dict of sums."""

  def passes(self, model: models.Model, split: str) -> dict[str, Pass]:
    """Lists what to compute for 'val' (often, so quick) or 'test' (once)."""

  def metrics(self, split: str, found: dict) -> tuple[dict, dict]:
    """Computes scores and examples from the results of the passes.

    Args:
      split: 'val' or 'test'.
      found: for each pass its rows in the order of the examples, as NumPy
        arrays without NaN or infinity.

    Returns:
      A dict of scores, and a dict of lists with what each example adds to them.
      Resampling the examples gives confidence intervals.
    """

  def baselines(self, split: str) -> dict:
    """Computes scores that need no model."""
    return {}

  def describe(self) -> dict[str, Any]:
    """Returns what the summary at the start shows."""
    return {}


@dataclasses.dataclass(eq=False)
class OfConfig(Task):
  """A task made from a config, whose `task` has the fields of a subclass.

  Attributes:
    data: the config's `data`.
    workdir: folder that keeps what is made of the data, the tokenizer say.
    seed: seed of the order of the data, and of what is drawn.
    shard: (index, count) of this host.
  """

  data: 'ConfigDict'
  _: dataclasses.KW_ONLY
  workdir: str
  seed: int
  shard: tuple[int, int]

  def epochs(self, n: int) -> epochs.Epochs:
    """Makes `rows`, of n training examples."""
    return epochs.Epochs(n, self.data.batch_size, self.seed, self.shard)


def show(what: str, most: int, **columns: Sequence[str]) -> None:
  """Prints the first examples of the test set.

  Args:
    what: plural noun for an example.
    most: number of examples to show.
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


def build(name: str, **fields: Any) -> Task:
  """Builds a task by the name of its file or the import path of its class.

  Raises ValueError or TypeError like attention.build.
  """
  make = imports.subclass(name, Task)
  if not make:
    checks.one_of('task.name', name, names())
    make = importlib.import_module(f'{__name__}.{name}').build
  checks.at_least('seed', fields['seed'], 0)
  return make(**fields)
