# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on a task: each example once, over all devices."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import Mesh, Sharding
import numpy as np
from tqdm import tqdm

from collab import models, tasks
from collab.data import pipeline
from collab.metrics.finite import nan_unless
from collab.runtime import processes
from collab.training import sharding


def build(task: tasks.Task, model: models.Model, mesh: Mesh) -> Callable:
  """Makes a function that evaluates a task; its programs are compiled once.

  With several processes, process 0 evaluates on one device.

  Args:
    task: tasks.Task.
    model: models.Model.
    mesh: mesh of `sharding.make_mesh`.

  Returns:
    A function (params, split) -> dict of scores, and dict of lists with what
    each example adds to them, on process 0. If the model gives NaN or infinity
    for any example, the scores are NaN and there are no examples.
  """
  split_batch = sharding.batch_sharding(mesh)
  if jax.process_count() > 1:
    split_batch = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  @functools.cache
  def compiled(function):
    return jax.jit(functools.partial(function, model))

  def evaluate(params, split):
    params, examples = sharding.local(params, mesh), {}

    def scores():
      found = {
        name: rows(compiled(computed.rows), params, computed, split_batch)
        for name, computed in task.passes(model, split).items()
      }
      leaves = [x for x in jax.tree.leaves(found) if x.dtype.kind == 'f']
      finite = all(np.isfinite(x).all() for x in leaves)
      found, new = task.metrics(split, jax.tree.map(np.nan_to_num, found))
      examples.update(new if finite else {})
      return nan_unless(finite, found) | task.baselines(split)

    return processes.alone('evaluation', scores), examples

  return evaluate


def rows(
  program: Callable,
  params: Any,
  computed: tasks.Pass,
  split_batch: Sharding,
) -> Any:
  """Computes a Pass over all examples; returns the rows in their order.

  Args:
    program: compiled function (params, batch) -> pytree of arrays [R, ...].
    params: parameters of the model.
    computed: tasks.Pass.
    split_batch: sharding of a batch over the devices.

  Returns:
    The same tree of NumPy arrays [examples, ...].
  """
  devices = len(split_batch.device_set)
  stream = pipeline.stream(computed.batch, 0, computed.batches)
  found, places = [], []
  for batch in tqdm(
    stream, 'evaluating', computed.batches, leave=False, delay=1, disable=None
  ):
    batch = _filled(batch, devices)
    place = batch.pop('place')
    new = jax.device_get(program(params, sharding.put(batch, split_batch)))
    found.append(jax.tree.map(lambda x, kept=place >= 0: x[kept], new))
    places.append(place[place >= 0])
  order = np.argsort(np.concatenate(places), kind='stable')
  return jax.tree.map(lambda *x: np.concatenate(x)[order], *found)


def _filled(batch, devices):
  """Pads a batch for all devices, with copies of row 0 at place -1."""
  n = len(batch['place'])
  rows = np.arange(n + -n % devices)
  rows[n:] = 0
  batch = {name: x[rows] for name, x in batch.items()}
  batch['place'][n:] = -1
  return batch
