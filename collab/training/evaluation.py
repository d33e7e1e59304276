# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a task: each example once, over all devices of a mesh."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from collab.data import pipeline
from collab.training import sharding


class Pass(NamedTuple):
  """What an evaluation computes of each example of a split.

  Attributes:
    rows: pure function (model, params, batch) -> pytree of arrays [R, ...].
    batch: i -> dict of numpy arrays [R, ...], with `place`, int [R]: which
      example a row is, -1 for one that only fills the batch up.
    batches: how many there are.
    examples: how many there are; each has to be in one batch.
  """

  rows: Callable
  batch: Callable
  batches: int
  examples: int


def build(task, model, split_batch):
  """The evaluation of a task: (params, split) -> scores, examples.

  Programs are compiled once for all evaluations.

  Args:
    task: tasks.Task.
    model: models.Model.
    split_batch: sharding of the leading axis of a batch.

  Returns:
    (params, split) -> dict of scores, and dict of lists: what each example adds
    to them, from which resampling makes intervals.

  Raises (when called):
    ValueError: an output is not finite.
  """
  programs = {}

  def run(function, params, batches):
    if function not in programs:
      programs[function] = jax.jit(functools.partial(function, model))
    return _rows(programs[function], params, batches, split_batch)

  def evaluate(params, split):
    found = {
      name: run(x.rows, params, x) for name, x in task.passes(split).items()
    }
    return task.metrics(split, **found)

  return evaluate


def _rows(program, params, batches, split_batch):
  """Rows of all examples, in their order: a pytree of arrays [examples, ...]."""
  devices = len(split_batch.device_set)
  stream = pipeline.stream(batches.batch, 0, batches.batches)
  found, places = [], []
  for batch in tqdm(
    stream, 'evaluating', batches.batches, leave=False, disable=None
  ):
    batch = _filled(batch, devices)
    place = batch.pop('place')
    rows = jax.device_get(program(params, sharding.put(batch, split_batch)))
    found.append(jax.tree.map(lambda x, kept=place >= 0: x[kept], rows))
    places.append(place[place >= 0])
  order = np.argsort(np.concatenate(places), kind='stable')
  assert len(order) == batches.examples, (len(order), batches.examples)
  rows = jax.tree.map(lambda *x: np.concatenate(x)[order], *found)
  _check_finite(rows)
  return rows


def _filled(batch, devices):
  """The batch with rows up to a multiple of the devices, place -1."""
  more = -len(batch['place']) % devices
  batch = {
    name: np.concatenate([x, np.repeat(x[:1], more, 0)])
    for name, x in batch.items()
  }
  batch['place'][len(batch['place']) - more :] = -1
  return batch


def _check_finite(rows):
  """Refuses NaN and infinity: an argmax of NaN is a class like any other."""
  for x in jax.tree.leaves(rows):
    if x.dtype.kind != 'f':
      continue
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
      raise ValueError(
        f'The model gives NaN or infinity for {bad.sum():,} of {len(x):,} '
        'examples: nothing to score.'
      )
