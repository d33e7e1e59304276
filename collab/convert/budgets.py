# SPDX-License-Identifier: Apache-2.0
"""Divides a budget among keys and values of a model's layers, or among heads.

Of the values of all heads and layers, the directions that matter most for their
price are bought first. Errors of scores and of values have no exchange rate, so
how much of the budget the keys get is found by trial: by what the outputs of
all layers lose. All layers get the same share of their keys; widths by layer,
from the errors of their scores, lost more
(experiments/questions/decompose_with_data.md). A budget of heads keeps those
without which the outputs would lose most.
"""

from collections.abc import Callable, Mapping
import functools
from typing import NamedTuple

import jax
import numpy as np
from scipy import optimize

from collab import attention, checks
from collab.attention.core import Attention
from collab.convert.calibration import Calibration
from collab.convert.decompose import fit, layers, rank_search, values
from collab.convert.decompose.input_statistics import Moments
from collab.convert.decompose.mha import Mha

TRIALS = 5
HELD_OUT = 5  # each fifth batch is for the trials
COUNTS = dict(parameters='count', cache='cache_size')  # methods of Attention
KEYS = dict(collab='shared_dim', mha='key_features')  # the width of keys
# The attention that each kind of budget is for.
LEGAL = dict(error=('collab',), heads=('mha',)) | dict.fromkeys(COUNTS, KEYS)


class Part(NamedTuple):
  """A layer that gets narrower keys and values.

  Attributes:
    path: of its parameters.
    name: of the new attention, one of KEYS.
    module: the layer as it is.
    fields: of the new attention, without its widths.
    mha: its parameters.
    moments: moments of its inputs.
    curve: errors of its scores, or None.
    want: arguments of the conversion, without widths.
  """

  path: tuple
  name: str
  module: Attention
  fields: dict
  mha: Mha
  moments: Moments
  curve: rank_search.Curve | None
  want: dict

  @property
  def step(self) -> int:
    """Returns how many columns keys gain at a time: in mha one a head."""
    return self.mha.query.shape[1] if self.name == 'mha' else 1

  @property
  def steps(self) -> int:
    """Returns the number of these in the whole width."""
    return self.mha.query[0].size // self.step

  def count(self, kind: str, key: int, ranks: tuple) -> int:
    """Counts parameters or cache, with widths of keys and value_dims."""
    widths = {KEYS[self.name]: key, 'value_dims': ranks}
    layer = attention.build(self.name, **self.fields | widths)
    return getattr(layer, COUNTS[kind])(len(self.mha.query))


class Widths(NamedTuple):
  """The widths of all layers.

  Attributes:
    keys: KEYS of each.
    values: value_dims of each.
    trials: dicts with `keys`, their part of what columns may cost, and
      `disturbance`, see `fit`: its root mean square over the layers.
  """

  keys: list
  values: list
  trials: tuple


def check(kind: str, most: float, name: str, fields: Mapping) -> None:
  """Refuses a budget that cannot be one, before anything is computed.

  Args:
    kind, most: see `choose`.
    name, fields: of the new attention.
  """
  checks.one_of('budget', kind, LEGAL)
  chosen = 'shared_dim', 'num_heads', 'key_features'
  if name not in LEGAL[kind] or fields.keys() & {*chosen}:
    raise ValueError(
      f'budget={kind}={most} chooses the widths of {" or ".join(LEGAL[kind])}; '
      f'give no other attention, and no {", ".join(chosen)}.'
    )
  if kind == 'error':
    checks.at_least('budget error', most, 0)
  elif isinstance(most, float) and not 0 < most <= 1:
    raise ValueError(
      f'budget {kind}={most}; expected a whole number, or a share above 0, at '
      'most 1.0.'
    )


def held_out(
  calibration: Calibration | None,
) -> tuple[Calibration | None, Calibration | None]:
  """Splits batches into those to look at and those of the trials.

  Where there are too few, both get all.
  """
  if calibration is None or len(calibration.batches) < HELD_OUT:
    return calibration, calibration
  rest = list(calibration.batches)
  held = rest[HELD_OUT // 2 :: HELD_OUT]
  del rest[HELD_OUT // 2 :: HELD_OUT]
  return calibration._replace(batches=rest), calibration._replace(batches=held)


def heads(most: float, mhas: list[Mha], moments: list[Moments]) -> list[int]:
  """Chooses the number of heads of each layer.

  Args:
    most: heads of all layers, as int, or as float a share of them.
    mhas, moments: of each layer.

  Raises:
    ValueError: there are fewer heads than layers.
  """
  costs = [
    values.leaving(*layer)[1] / _energy(layer[1])
    for layer in zip(mhas, moments, strict=True)
  ]
  if isinstance(most, float):
    most = int(most * sum(map(len, costs)))
  if most < len(costs):
    raise ValueError(
      f'budget heads={most}; expected one for each of {len(costs)} layers.'
    )
  kept = rank_search.buy(costs, [1] * len(costs), most)
  return [int(x.sum()) for x in kept]


def choose(
  kind: str,
  most: float,
  parts: list[Part],
  params: Mapping,
  held: Calibration | None,
) -> Widths:
  """Chooses the widths of all layers.

  Args:
    kind: 'error', 'parameters' or 'cache' (scalars a token).
    most: of an error, the maximum of what keys cost each layer's scores, and
      values its outputs, relative to their spread; else the maximum of all
      layers, as int, or as float a share of what they have.
    parts: the layers.
    params: parameters of the model.
    held: calibration.Calibration of the trials, or None.

  Raises:
    ValueError: the least widths cost more.
  """
  if kind == 'error':
    keys = rank_search.for_error([part.curve for part in parts], most)
    ranks = [values.ranks_for_error(p.mha, p.moments, most) for p in parts]
    return Widths(keys, list(map(_tuple, ranks)), ())
  spectra = [values.spectrum(part.mha, part.moments)[0] for part in parts]
  if isinstance(most, float):
    now = [
      getattr(part.module, COUNTS[kind])(len(part.mha.query)) for part in parts
    ]
    most = int(most * sum(now))
  prices = np.array([_prices(kind, part) for part in parts])
  if most < prices.sum():
    raise ValueError(
      f'budget {kind}={most:,}; with the least widths the attention has '
      f'{prices.sum():,}.'
    )
  trial = _trial(parts, params, held)
  return _search(most, prices.T, parts, spectra, trial)


def _prices(kind, part):
  """Prices of a layer without columns, of a key's step, and of a value's."""
  rest = (0,) * (part.fields['num_heads'] - 1)
  one, *more = (
    part.count(kind, key * part.step, (value, *rest))
    for key, value in ((1, 1), (2, 1), (1, 2))
  )
  key, value = (x - one for x in more)
  return one - key - value, key, value


def _search(most, prices, parts, spectra, trial):
  """Returns the Widths of the best trial."""
  rest, key, value = prices
  spend = most - rest.sum()
  steps = np.array([part.steps for part in parts])
  size = [part.step for part in parts]
  all_keys = key @ steps
  all_values = value @ [gains.size for gains in spectra]
  # Relative to the layer's input, as `fit` measures disturbance.
  gains = [
    gains / _energy(part.moments)
    for gains, part in zip(spectra, parts, strict=True)
  ]

  def buy(share):
    keys = np.maximum(1, steps * share // all_keys).astype(int)
    got = rank_search.buy(gains, value, spend - key @ keys)
    return _tuple(keys * size), [_tuple(x.sum(1)) for x in got]

  trials = []

  def attempt(share):
    widths = buy(share)
    trials.append((trial(*widths), share, widths))
    return trials[-1][0]

  low = max(key.sum(), spend - all_values)
  high = min(all_keys, spend - value.sum())
  if low >= high:  # there is nothing to choose
    return Widths(*buy(high), ())
  optimize.minimize_scalar(
    attempt,
    bounds=(low, high),
    method='bounded',
    options=dict(maxiter=TRIALS),
  )
  _, _, best = min(trials, key=lambda trial: trial[0])
  shown = tuple(
    dict(keys=float(share / spend), disturbance=square**0.5)
    for square, share, _ in trials
  )
  return Widths(*best, shown)


def _trial(parts, params, held) -> Callable:
  """Makes a function of widths: the layers' mean squared disturbance.

  All widths are filled up with zeros, so that one program serves all trials.
  """
  pairs = {}
  for part in parts:
    width = {KEYS[part.name]: part.mha.query[0].size}
    wide = attention.build(part.name, **part.fields | width)
    pairs[part.path] = part.module, wide
  measure = fit.measure(params, pairs, held)

  def run(keys, ranks):
    new = {}
    for part, key, widths in zip(parts, keys, ranks, strict=True):
      mha = values.low_rank(part.mha, part.moments, widths)
      want = part.want | {KEYS[part.name]: key}
      if part.name == 'collab':
        want['sweeps'] = rank_search.SWEEPS
      tree = layers.VARIANTS[part.name](mha, part.moments, **want)
      fill = functools.partial(_filled, N=part.steps)
      for name in tree.keys() & {'query', 'key', 'mixing'}:
        tree[name] = jax.tree.map(fill, tree[name])
      new[part.path] = jax.tree.map(np.float32, tree)
    return float(
      np.mean([x.squared_disturbance() for x in measure(new).values()])
    )

  return run


def _energy(moments):
  """Returns the mean square of a layer's inputs, the unit of a disturbance."""
  return np.trace(moments.x_cov) + np.sum(moments.x_mean**2)


def _filled(x, N):
  return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, N - x.shape[-1])])


def _tuple(numbers):
  return tuple(map(int, numbers))
