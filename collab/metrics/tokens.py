# SPDX-License-Identifier: Apache-2.0
"""Losses and metrics of tokens as (sum, weight), for use under jit.

The mean is sum / weight, in float32. So it is exact over batches, devices and
accumulation steps, whatever the padding. Axes: B batch, T tokens, V vocabulary.
"""

from collections.abc import Mapping
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from collab import models
from collab.attention import target
from collab.models import layers

# Logits that exist at a time. Those of a CPU fit its cache. For each part the
# table is read and its gradient added to, so an accelerator has few large ones.
PART = dict(cpu=4 << 20)
LARGE_PART = 64 << 20


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """sum_i w_i ((1 - e) CE_i + e mean_v(-log p_iv) + c (log Z_i)^2).

  CE_i = -log p_i,label, and Z_i = sum_v exp(logit_iv). Szegedy et al., 2016,
  section 7, and arXiv 2204.02311, section 5: the last term keeps log Z near 0.
  With e = c = 0 it is the input of `perplexity`; in one compiled program both
  together compute log p once.

  Args:
    logits: [B, T, V], or any [..., V]; cast to float32.
    labels: int [B, T]. A label outside of 0 to V - 1 makes the sum NaN.
    weights: [B, T]. Where a weight is 0, labels and logits may hold anything,
      and get no gradient.
    label_smoothing: e, 0 to below 1.
    z_loss: c, at least 0.

  Returns:
    (sum, weight), float32 []; weight is the sum of the weights.

  Raises:
    ValueError: shapes or types do not fit, or e or c is out of range.
  """
  losses, weights = _losses(logits, labels, weights, label_smoothing, z_loss)
  return losses.sum(), weights.sum()


def _losses(logits, labels, weights, label_smoothing=0.0, z_loss=0.0):
  """Computes the terms of `cross_entropy`, and the weights in float32."""
  if not 0 <= label_smoothing < 1:
    raise ValueError(
      f'label_smoothing must be 0 to below 1, got {label_smoothing}.'
    )
  if not 0 <= z_loss < math.inf:
    raise ValueError(f'z_loss must be at least 0, got {z_loss}.')
  logits, labels, weights, valid = _counted(logits, labels, weights)
  # Sums over v alone compile to few passes over the logits. Gathering the
  # label's logit would scatter its gradient into zeros of their size.
  log_z = jax.nn.logsumexp(logits, axis=-1)
  loss = log_z - (1 - label_smoothing) * _picked(logits, labels)
  if label_smoothing:
    loss -= label_smoothing * logits.mean(axis=-1)
  if z_loss:
    loss += z_loss * log_z**2
  return jnp.where(valid, loss, jnp.nan) * weights, weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def projected_cross_entropy(
  x: jax.Array,
  output: tuple[jax.Array | None, ...],
  labels: jax.Array,
  weights: jax.Array,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> dict[str, jax.Array]:
  """Computes loss and accuracy of the logits x E^T + b, in parts along T.

  The logits [B, T, V] never exist in full, and each part is computed once: the
  gradient is computed together with the loss. Only the loss has a gradient.
  Parts are cut along T, so that a batch that is split over devices stays in
  place.

  Args:
    x: [B, T, D].
    output: E, [V, D]; b, [V], or None for 0; and perhaps a cap of the logits.
    labels, weights, label_smoothing, z_loss: as in `cross_entropy`.

  Returns:
    dict of float32 []: loss, nll (the loss with e = c = 0), right, weight:
    sums over the labels that count.
  """

  def part(parts):
    x, labels, weights = parts
    return _part(x, output, labels, weights, label_smoothing, z_loss)[1]

  sums = jax.lax.map(part, _cut((x, labels, weights), len(output[0])))
  return jax.tree.map(lambda x: x.sum(0), sums)


def _projected_forward(x, output, labels, weights, label_smoothing, z_loss):
  value_and_grad = jax.value_and_grad(_part, (0, 1), has_aux=True)

  def part(total, parts):
    x, labels, weights = parts
    (_, sums), (dx, new) = value_and_grad(
      x, output, labels, weights, label_smoothing, z_loss
    )
    return jax.tree.map(jnp.add, total, new), (dx, sums)

  doutput, (dx, sums) = jax.lax.scan(
    part,
    jax.tree.map(jnp.zeros_like, output),
    _cut((x, labels, weights), len(output[0])),
  )
  dx = jnp.moveaxis(dx, 0, 1).reshape(x.shape)
  return jax.tree.map(lambda x: x.sum(0), sums), (dx, doutput)


def _projected_backward(label_smoothing, z_loss, grads, g):
  dx, doutput = jax.tree.map(lambda x: x * g['loss'].astype(x.dtype), grads)
  return dx, doutput, None, None


projected_cross_entropy.defvjp(_projected_forward, _projected_backward)


def of_batch(
  model: models.Model,
  params: Mapping,
  batch: dict,
  rngs: dict,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> dict:
  """Computes `projected_cross_entropy` of a model on a labelled batch."""
  x = model.apply({'params': params}, batch, rngs=rngs, method='features')
  output, labels = model.output_table(params), batch['labels']
  return projected_cross_entropy(
    x, output, labels, batch['weights'], label_smoothing, z_loss
  )


def of_rows(
  model: models.Model, params: Mapping, batch: dict
) -> dict[str, jax.Array]:
  """Computes what each row of a batch adds to `of_batch`, for evaluations.

  Returns:
    dict of float32 [B]: nll, right, and tokens, the sum of the weights.
  """
  x = model.apply({'params': params}, batch, method='features')
  output = model.output_table(params)

  def part(parts):
    x, labels, weights = parts
    logits = layers.logits(x, *output)
    nll, weight = _losses(logits, labels, weights)
    right, _ = _hits(logits, labels, weights)
    found = dict(nll=nll, right=right, tokens=weight)
    return jax.tree.map(lambda x: x.sum(1), found)

  parts = _cut((x, batch['labels'], batch['weights']), len(output[0]))
  return jax.tree.map(lambda x: x.sum(0), jax.lax.map(part, parts))


def scores(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Computes nll, perplexity and accuracy of a token from `of_rows`."""
  nll, right, tokens = (
    float(rows[name].sum(dtype=float)) for name in ('nll', 'right', 'tokens')
  )
  return dict(
    nll=nll / tokens,
    perplexity=perplexity(nll, tokens),
    accuracy=right / tokens,
  )


def in_pieces(sums: Mapping[str, np.ndarray], size: int) -> dict[str, list]:
  """Adds up each `size` consecutive rows; returns lists.

  Rows of a running text depend on their neighbours, so confidence intervals
  resample such pieces instead of rows.
  """
  return {
    name: np.add.reduceat(x, np.arange(0, len(x), size)).tolist()
    for name, x in sums.items()
  }


def _part(x, output, labels, weights, label_smoothing, z_loss):
  """Computes the loss of a part, and all sums as a dict."""
  logits = layers.logits(x, *output)
  how = label_smoothing, z_loss
  loss, weight = cross_entropy(logits, labels, weights, *how)
  nll, _ = cross_entropy(logits, labels, weights)
  right, _ = accuracy(logits, labels, weights)
  return loss, dict(loss=loss, nll=nll, right=right, weight=weight)


def logits_held(labels: np.ndarray, V: int) -> str:
  """Says how much of a batch's logits exists at a time: '16.8 of 98.3 MB'.

  Args:
    labels: [B, T], as in `projected_cross_entropy`.
    V: size of the vocabulary.
  """
  B, T = labels.shape
  whole = 4 * B * T * V / 1e6
  return f'{whole / _parts(B, T, V):.1f} of {whole:.1f} MB'


def _parts(B, T, V):
  """Chooses n equal parts of at most `PART` logits, or of one token a row."""
  most = PART.get(target.target().platform, LARGE_PART)
  fits = (n for n in range(1, T + 1) if T % n == 0 and n * most >= B * T * V)
  return next(fits, T)


def _cut(tree, V):
  """Cuts [B, T, ...] into n `_parts`: [n, B, T / n, ...]."""
  B, T = tree[0].shape[:2]
  n = _parts(B, T, V)
  return jax.tree.map(
    lambda x: jnp.moveaxis(x.reshape(B, n, T // n, *x.shape[2:]), 1, 0), tree
  )


def accuracy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes sum_i w_i [logit_i,label = max_v logits_iv]; see `cross_entropy`.

  The sum is NaN where a maximum is not finite, like the cross-entropy.
  """
  hits, weights = _hits(logits, labels, weights)
  return hits.sum(), weights.sum()


def _hits(logits, labels, weights):
  """Computes the terms of `accuracy`, and the weights in float32."""
  logits, labels, weights, valid = _counted(logits, labels, weights)
  most = logits.max(-1)
  right = (_picked(logits, labels) == most).astype(jnp.float32)
  right = jnp.where(valid & jnp.isfinite(most), right, jnp.nan)
  return right * weights, weights


def perplexity(nll_sum: float, count: float) -> float:
  """Computes exp(nll_sum / count), of natural logarithms; inf if it overflows.

  Args:
    nll_sum: sum of -log p of the labels, without label smoothing.
    count: sum of their weights, above 0.
  """
  nll_sum, count = float(nll_sum), float(count)
  if not count > 0:
    raise ValueError(f'count must be above 0, got {count}.')
  try:
    return math.exp(nll_sum / count)
  except OverflowError:
    return math.inf


def _picked(logits, labels):
  """Picks logits_i,label, [..., V] -> [...]."""
  ids = jnp.arange(logits.shape[-1])
  hit = labels[..., None] == ids.reshape((1,) * labels.ndim + ids.shape)
  return jnp.where(hit, logits, 0).sum(-1)


def _counted(logits, labels, weights):
  """Returns float32 logits and weights, legal labels, and which were legal."""
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  weights = jnp.asarray(weights, jnp.float32)
  if not logits.shape[:-1] == labels.shape == weights.shape or not logits.ndim:
    raise ValueError(
      'labels and weights must have the shape of logits without its last axis; '
      f'got logits {logits.shape}, labels {labels.shape}, weights '
      f'{weights.shape}.'
    )
  if labels.dtype.kind not in 'iu':
    raise ValueError(f'labels must be integers, got {labels.dtype}.')
  counted = weights != 0
  valid = ~counted | ((labels >= 0) & (labels < logits.shape[-1]))
  # Zeros, because 0 * NaN is NaN in the sum and in the gradient.
  logits = jnp.where(counted[..., None], logits.astype(jnp.float32), 0)
  return logits, jnp.where(counted & valid, labels, 0), weights, valid
