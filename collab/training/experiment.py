# SPDX-License-Identifier: Apache-2.0
"""The parts of an experiment, built from its config, as one tuple."""

from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from collab import models, tasks


class Experiment(NamedTuple):
  """What a run needs to make its state and its step.

  Attributes:
    config: of the run.
    workdir: where it keeps what it makes.
    task: the data, the loss and the scores.
    model: of the task.
    tx: the optimiser.
    schedule: updates done -> learning rate.
    mesh: of the devices.
  """

  config: ConfigDict
  workdir: str
  task: tasks.Task
  model: models.Model
  tx: optax.GradientTransformation
  schedule: Callable
  mesh: Mesh
