# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on a task: each example once, over all devices."""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
from tqdm import tqdm

from collab import models, tasks
from collab.data import pipeline
from collab.metrics.finite import nan_unless
from collab.models import split
from collab.runtime import processes
from collab.training import sharding


def build(task: tasks.Task, model: models.Model, mesh: Mesh) -> Callable:
  """Makes a function that evaluates a task; its programs are compiled once.

  All processes compute the rows, and process 0 the scores from them.

  Args:
    task: tasks.Task.
    model: models.Model.
    mesh: mesh of `sharding.make_mesh`.

  Returns:
    A function (params, 'val' or 'test') -> dict of scores, on all processes,
    and dict of lists with what each example adds to them, on process 0. If the
    model gives NaN or infinity for any example, the scores are NaN and there
    are no examples.
  """
  compute = over_examples(model, mesh)

  def evaluate(params, which):
    passes, examples = task.passes(model, which), {}
    found = {name: compute(params, x) for name, x in passes.items()}

    def scores():
      leaves = [x for x in jax.tree.leaves(found) if x.dtype.kind == 'f']
      finite = all(np.isfinite(x).all() for x in leaves)
      got, new = task.metrics(which, jax.tree.map(np.nan_to_num, found))
      examples.update(new if finite else {})
      return nan_unless(finite, got) | task.baselines(which)

    return processes.alone('evaluation', scores), examples

  return evaluate


def over_examples(model: models.Model, mesh: Mesh) -> Callable:
  """Makes a function that computes a Pass; its programs are compiled once.

  The rows of a batch are split over `data` and `fsdp`. Every process makes the
  whole batch, and its devices take their rows of it.

  Args:
    model: models.Model.
    mesh: mesh of `sharding.make_mesh`.

  Returns:
    A function (params, tasks.Pass) -> the rows in the order of the examples: a
    tree of NumPy arrays [examples, ...], on all processes. Parameters that are
    on the mesh stay as they are split there; others are moved to it first.
  """
  rows = sharding.batch_sharding(mesh)
  parts = math.prod(mesh.shape[axis] for axis in rows.spec[0])
  put, programs = jax.make_array_from_process_local_data, {}

  def compute(params, computed):
    params = sharding.moved(params, mesh)
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    key = computed.rows, *jax.tree.leaves(specs)
    if key not in programs:
      programs[key] = program(model, mesh, specs, computed.rows)
    run = programs[key]
    stream = pipeline.stream(computed.batch, 0, computed.batches)
    found, places = [], []
    for batch in tqdm(
      stream,
      'evaluating',
      computed.batches,
      leave=False,
      delay=1,
      disable=jax.process_index() > 0 or None,  # None: without a terminal
    ):
      batch = _filled(batch, parts)
      place = batch.pop('place')
      batch = {name: put(rows, x, x.shape) for name, x in batch.items()}
      new = jax.device_get(run(params, batch))
      found.append(jax.tree.map(lambda x, kept=place >= 0: x[kept], new))
      places.append(place[place >= 0])
    order = np.argsort(np.concatenate(places), kind='stable')
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *found)

  return compute


def program(
  model: models.Model, mesh: Mesh, specs: Any, rows: Callable
) -> Callable:
  """Compiles a Pass's `rows`, so that each device computes its own of them.

  Parameters that are split stay so, and are gathered where they are used (see
  split.py). The results are small and come back whole on every device.

  Args:
    model: models.Model.
    mesh: mesh of `sharding.make_mesh`.
    specs: tree of the parameters' PartitionSpec.
    rows: see tasks.Pass.

  Returns:
    A jitted function (params, batch) -> rows, of a batch that is split by
    sharding.batch_sharding.
  """
  over = sharding.batch_sharding(mesh).spec

  def local(params, batch):
    params = split.boxed(params, specs)
    return rows(model, split.gather_outside(params, model), batch)

  run = jax.shard_map(
    local,
    mesh=mesh,
    axis_names=set(split.manual(mesh)),
    in_specs=(jax.tree.map(split.without_tensor, specs), over),
    out_specs=over,
    check_vma=False,  # all are the same along axes that split nothing
  )
  return jax.jit(run, out_shardings=sharding.replicated(mesh))


def _filled(batch, parts):
  """Pads a batch to equal parts, with copies of row 0 at place -1."""
  n = len(batch['place'])
  rows = np.arange(n + -n % parts)
  rows[n:] = 0
  batch = {name: x[rows] for name, x in batch.items()}
  batch['place'][n:] = -1
  return batch
