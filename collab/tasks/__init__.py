# SPDX-License-Identifier: Apache-2.0
"""Tasks: data, loss and metrics of an experiment, one file a family."""

import importlib
import pkgutil
from typing import Any, Protocol

from collab import imports


class Task(Protocol):
  """What train.py knows of a task.

  Attributes:
    model_kwargs: fields of the model that the data decides.
    unit: what the log counts: 'tokens', 'examples' or 'images'.
    units_per_step: of the global batch.
    examples: after an evaluation of 'test', lists of what each example adds to
      the metrics, from which resampling makes intervals.
  """

  model_kwargs: dict
  unit: str
  units_per_step: int
  examples: dict[str, list]

  def batch(self, step: int) -> dict:
    """This host's slice of batch `step` (0, 1, ...): a function of seed, step.

    A dict of numpy arrays [rows, ...].
    """

  def rows(self, step: int):
    """Which of the training examples, from 0, those are: int [any]."""

  def inputs(self, batch: dict) -> tuple:
    """The arguments of the model's `init`."""

  def loss(self, apply, params, batch: dict, rngs: dict) -> tuple:
    """(sum, weight, aux): the loss is sum / weight, aux a dict of sums."""

  def evaluate(self, model, params, split: str) -> dict[str, float]:
    """Metrics of 'val' (often, so quick) or 'test' (once, so complete)."""

  def describe(self) -> dict[str, Any]:
    """What the summary at the start shows."""


def names():
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name, **fields) -> Task:
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
