# SPDX-License-Identifier: Apache-2.0
"""Chooses the parameters for the final evaluation of a run."""

from collections.abc import Callable
import contextlib
from typing import Any

import jax
from ml_collections import ConfigDict

from collab.runtime.checkpoint import Checkpoints


def choose(config: ConfigDict, checkpoints: Checkpoints, abstract: Any) -> Any:
  """Reads the parameters from the checkpoints that the config asks for.

  With config.checkpoint.final='best' they come from the best checkpoint. With
  'last' they are the mean of the newest config.checkpoint.average checkpoints.
  If the optimiser keeps a moving average of the parameters, that is used. A run
  without steps has one checkpoint, which is used.

  Args:
    config: config of the run.
    checkpoints: checkpoints of the run.
    abstract: the parameters' shapes and shardings, as arrays or structs.

  Raises:
    ValueError: as in `Checkpoints.best_params` and `Checkpoints.average`.
  """
  name = 'ema' if config.optim.ema else 'params'
  if checkpoints.newest() == 0:  # converted, not trained: there is only one
    return checkpoints.average(1, abstract, name)
  if config.checkpoint.final == 'best':
    return checkpoints.best_params(abstract, name)[1]
  return checkpoints.average(config.checkpoint.average, abstract, name)


def load(
  workdir: str, config: ConfigDict, shardings: Callable | None = None
) -> Any:
  """Reads the final parameters of another run from its workdir.

  Args:
    workdir: workdir of the run.
    config: config of the run.
    shardings: function of the parameters' shapes -> where to read them, a tree
      of shardings over all hosts; one device by default.

  Raises:
    ValueError: there is no good checkpoint; or as in `choose`.
  """
  keep, best = config.checkpoint.keep, config.checkpoint.best
  with contextlib.closing(
    Checkpoints(workdir, keep, best, read_only=True)
  ) as checkpoints:
    abstract = checkpoints.abstract_params()
    if shardings:
      abstract = jax.tree.map(
        lambda x, s: x.update(sharding=s), abstract, shardings(abstract)
      )
    return choose(config, checkpoints, abstract)
