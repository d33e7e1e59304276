# SPDX-License-Identifier: Apache-2.0
"""Methods that compress an encoder to a number of parameters in attention.

A method is a function of a Given; it returns fields of models.build, and
parameters. Those that compress other parts save as many parameters.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple

import numpy as np

from collab import accounting, attention, models
from collab.convert import heads, intercept, reparametrize
from collab.convert.calibration import Calibration
from collab.convert.decompose import (
  input_statistics,
  layers,
  mha,
  rank_search,
  values,
)
from collab.inference import pooling
from collab.inference.run import Run
from experiments import elsewhere


class Given(NamedTuple):
  """What a method gets.

  Attributes:
    opened: Run of the original.
    fields: fields of models.build of the same.
    seen: Calibration.
    texts: the texts in it.
    size: number of parameters that the attention may have.
  """

  opened: Run
  fields: dict
  seen: Calibration
  texts: list
  size: int

  def convert(
    self, fields: dict, budget: tuple | None = None, refine: int = 0
  ) -> tuple[dict, dict]:
    """Converts the attention; returns model and parameters."""
    params = self.opened.params
    new = reparametrize.convert(
      self.fields, params, fields, self.seen, budget, refine
    )
    return new.model, new.params


def by_width(name: str, field: str, **more: object) -> Callable:
  """Makes a method that sets one width of an attention, the same everywhere."""

  def method(given):
    D, H = given.fields['dim'], given.fields['attention']['num_heads']
    legal = dict(
      shared_dim=range(1, D + 1),
      latent_dim=range(1, D + 1),
      key_features=range(H, D + 1, H),
      kv_heads=[n for n in range(1, H + 1) if H % n == 0],
    )[field]
    sizes = parameters(given.fields, name, field, legal)
    width = legal[np.abs(sizes - given.size).argmin()]
    return given.convert({'name': name, field: width, **more})

  return method


def by_budget(name: str, refine: int = 0) -> Callable:
  """Makes a method that divides the parameters over keys and values."""
  budget = lambda given: ('parameters', given.size)
  return lambda given: given.convert(dict(name=name), budget(given), refine)


def weights_alone(given: Given) -> tuple[dict, dict]:
  """Decomposes as in arXiv 2006.16362, without looking at data."""
  return by_width('collab', 'shared_dim')(given._replace(seen=None))


def heads_pruned(given: Given) -> tuple[dict, dict]:
  """Prunes heads of all layers to the nearest number."""
  return given.convert(dict(name='mha'), ('heads', _left(given)))


def heads_pruned_by_gradient(given: Given) -> tuple[dict, dict]:
  """Prunes the heads whose masks have the least slopes, arXiv 1905.10650.

  There are no labels, and the distance to the original has no slope at the
  original. So the loss is the product of a text's embedding and a random
  vector, a new one for each text: the mean absolute slope of a mask is
  proportional to how far the embedding moves with it, to first order. Only the
  choice of heads differs from `heads_pruned`: the means of those that leave
  stay, which masks do not count either, and outputs are fitted again.

  Slopes are not divided by the norm of those of their layer, as in the paper:
  that kept less of other texts of STS-B's training set, as did masks of the
  means.
  """
  params, batches = given.opened.params, given.seen.batches
  moments = input_statistics.collect(given.seen.model, params, batches)
  slopes = _slopes(given, _centred(params, moments))
  every = rank_search.buy([*slopes.values()], [1] * len(slopes), _left(given))
  for path, kept in zip(slopes, every, strict=True):
    old = mha.read(intercept.get(params, path))
    widths = np.where(kept, old.out.shape[1], 0)
    new = values.low_rank(old, moments[path], widths)
    params = intercept.put(params, path, layers.mha(new, moments[path]))
  # Heads without values are those that this prunes.
  numbers = tuple(int(kept.sum()) for kept in every)
  given = given._replace(
    opened=dataclasses.replace(given.opened, params=params)
  )
  return given.convert(dict(name='mha', num_heads=numbers))


def _left(given):
  """Returns the number of heads of all layers that is nearest to the size."""
  whole = saved(given) + given.size
  every = given.fields['num_layers'] * given.fields['attention']['num_heads']
  return round(every * given.size / whole)


def _centred(params, moments):
  """Moves the heads' means into the outputs' biases, which changes nothing."""
  for path, seen in moments.items():
    layer = intercept.get(params, path)
    value, out = layer['value'], layer['out']
    mean = np.float32(seen.o_mean).reshape(value['bias'].shape)
    all_means = np.einsum('hv,hvd->d', mean, out['kernel'])
    value = value | dict(bias=value['bias'] - mean)
    out = out | dict(bias=out['bias'] + all_means)
    params = intercept.put(params, path, layer | dict(value=value, out=out))
  return params


def _slopes(given, params):
  """Measures {path: mean absolute slope [H]} of the masks of heads."""
  model, rng = given.seen.model, np.random.default_rng(0)
  pool = pooling.read(given.opened.files)

  def loss(params, batch):
    direction, row = batch
    return (pool(model, params, row) @ direction).sum()

  rows = (
    (
      rng.normal(size=model.dim).astype(np.float32),
      {name: x[i : i + 1] for name, x in batch.items()},
    )
    for batch in given.seen.batches
    for i in range(len(batch['tokens']))
  )
  return heads.importance(loss, params, rows)


def neurons_pruned(given: Given) -> tuple[dict, dict]:
  """Prunes as many neurons of MLPs."""
  n = round(saved(given) / (2 * given.fields['dim'] + 1))
  old = given.fields, given.opened.params
  return elsewhere.fewer_neurons(*old, given.seen, n)


def layer_dropped(given: Given) -> tuple[dict, dict]:
  """Drops the layer without which the embeddings of the texts change least."""
  texts = given.texts[:200]
  want = given.opened.encode(texts)

  def score(model, params):
    got = opened(given.opened, model, params).encode(texts)
    return (got * want).sum()

  return elsewhere.without_a_layer(given.fields, given.opened.params, score)


METHODS = {
  'collab, weights alone': weights_alone,
  'collab, keys': by_width('collab', 'shared_dim'),
  'collab, keys and values': by_budget('collab'),
  'heads pruned': heads_pruned,
  'heads pruned by gradient': heads_pruned_by_gradient,
  'low rank, keys': by_width('mha', 'key_features'),
  'low rank, keys and values': by_budget('mha'),
  'GQA, mean': by_width('gqa', 'kv_heads', pooling='mean'),
  'GQA, SVD': by_width('gqa', 'kv_heads', pooling='svd'),
  'MLA, joint SVD': by_width('mla', 'latent_dim'),
  'MLP neurons pruned': neurons_pruned,
  'a layer dropped': layer_dropped,
}
REFINED = {'collab, refined': by_budget('collab', 300)}


def parameters(
  model: Mapping, name: str, field: str, widths: list
) -> np.ndarray:
  """Counts the parameters of all attention layers at some widths.

  They are a linear function of the width.
  """
  H, D = model['attention']['num_heads'], model['dim']
  ends = widths[0], widths[-1]
  counts = [
    attention.build(name, num_heads=H, **{field: x}).count(D) for x in ends
  ]
  return model['num_layers'] * np.interp(widths, ends, counts)


def saved(given: Given) -> int:
  """Returns the number of parameters that a method saves."""
  whole = accounting.attention_parameters(models.build(**given.fields))
  return whole - given.size


def opened(run: Run, model: Mapping, params: Mapping) -> Run:
  """Returns the Run with another model."""
  return dataclasses.replace(run, model=models.build(**model), params=params)
