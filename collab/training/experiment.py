# SPDX-License-Identifier: Apache-2.0
"""The parts of an experiment, built from its config, in one tuple."""

from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from collab import models, tasks


class Experiment(NamedTuple):
  """Everything that a run needs to make its state and its step.

  Attributes:
    config: config of the run.
    workdir: folder of the run's files.
    task: the data, the loss and the scores.
    model: the task's model.
    tx: the optimiser.
    schedule: function number of updates -> learning rate.
    mesh: mesh of the devices.
  """

  config: ConfigDict
  workdir: str
  task: tasks.Task
  model: models.Model
  tx: optax.GradientTransformation
  schedule: Callable
  mesh: Mesh
