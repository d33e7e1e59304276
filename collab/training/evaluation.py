# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a task: each example once, over all devices of a mesh."""

import functools

import jax
import numpy as np
from tqdm import tqdm

from collab.data import pipeline
from collab.metrics.finite import nan_unless
from collab.runtime import processes
from collab.training import sharding


def build(task, model, mesh):
  """The evaluation of a task; its programs are compiled once.

  Of several processes, process 0 evaluates on one device.

  Args:
    task: tasks.Task.
    model: models.Model.
    mesh: of `sharding.make_mesh`.

  Returns:
    (params, split) -> dict of scores, and dict of lists: what each example adds
    to them, on process 0. If the model gives NaN or infinity for any example,
    its scores are NaN and there are no examples.
  """
  programs, split_batch = {}, sharding.batch_sharding(mesh)
  if jax.process_count() > 1:
    split_batch = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def run(computed, params):
    function = computed.rows
    if function not in programs:
      programs[function] = jax.jit(functools.partial(function, model))
    return rows(programs[function], params, computed, split_batch)

  def evaluate(params, split):
    params, examples = sharding.local(params, mesh), {}

    def scores():
      found = {
        name: run(computed, params)
        for name, computed in task.passes(model, split).items()
      }
      leaves = [x for x in jax.tree.leaves(found) if x.dtype.kind == 'f']
      finite = all(np.isfinite(x).all() for x in leaves)
      found, new = task.metrics(split, jax.tree.map(np.nan_to_num, found))
      examples.update(new if finite else {})
      return nan_unless(finite, found) | task.baselines(split)

    return processes.alone(scores), examples

  return evaluate


def rows(program, params, computed, split_batch):
  """What a Pass computes of all examples, in their order.

  Args:
    program: (params, batch) -> pytree of arrays [R, ...], compiled.
    params: of the model.
    computed: tasks.Pass.
    split_batch: as in `build`.

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
  """The batch with rows for all devices: more of row 0, of place -1."""
  more = -len(batch['place']) % devices
  batch = {
    name: np.concatenate([x, np.repeat(x[:1], more, 0)])
    for name, x in batch.items()
  }
  batch['place'][len(batch['place']) - more :] = -1
  return batch
