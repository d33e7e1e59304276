# SPDX-License-Identifier: Apache-2.0
"""The optimiser of a config, its schedule, accumulation, and averages."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import optax

NAMES = ('adam', 'adamw', 'muon')
INPUTS = ('embed', 'positions', 'types', 'patch', 'class')  # below layer 0


def build(
  *,
  total_steps,
  name='adamw',
  lr=1e-3,
  schedule='cosine',
  warmup_steps=0,
  end_lr=0.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  weight_decay=0.0,
  clip=0.0,
  ema=0.0,
  layer_decay=1.0,
):
  """The optimiser, and its learning rate for the log.

  Args:
    total_steps: at which 'linear' and 'cosine' arrive at `end_lr`.
    name: one of `NAMES`; 'muon' (Jordan et al., 2024) turns the updates of
      `matrices` into orthogonal ones as large as Adam's (arXiv 2502.16982), so
      that lr means the same; all others are Adam's with Nesterov's momentum.
    lr: peak learning rate.
    schedule: one of `SCHEDULES`.
    warmup_steps: of linear growth from lr / warmup_steps to lr.
    end_lr: of 'linear' and 'cosine'.
    b1, b2, eps: of Adam.
    weight_decay: times lr; of matrices only, see `decay_mask`.
    clip: largest global norm of the gradients, 0 for none.
    ema: decay of the parameters' average, by `ema_update`; 0 for none.
    layer_decay: of the learning rate from layer to layer, see `layer_rates`.

  Returns:
    An optax.GradientTransformation, and count -> learning rate of the update
    that follows `count` updates.

  Raises:
    ValueError: a value out of range, or one that `name` or `schedule` ignores.
  """
  for field, value, legal in (
    ('name', name, NAMES),
    ('schedule', schedule, SCHEDULES),
  ):
    if value not in legal:
      raise ValueError(f'{field}={value!r}; there are {", ".join(legal)}.')
  if name == 'adam' and weight_decay:
    raise ValueError(
      f'weight_decay={weight_decay}, but name={name!r}; only adamw and muon '
      'decay.'
    )
  positive = dict(lr=lr, end_lr=end_lr, eps=eps, weight_decay=weight_decay)
  positive |= dict(clip=clip, warmup_steps=warmup_steps)
  for field, value in positive.items():
    if not 0 <= value < float('inf'):
      raise ValueError(f'{field}={value}; expected at least 0.')
  for field, value in dict(b1=b1, b2=b2, ema=ema).items():
    if not 0 <= value < 1:
      raise ValueError(f'{field}={value}; expected 0 <= {field} < 1.')
  if not 0 < layer_decay <= 1:
    raise ValueError(f'layer_decay={layer_decay}; expected above 0, at most 1.')
  if schedule in ('linear', 'cosine'):
    if warmup_steps >= total_steps:
      raise ValueError(
        f'warmup_steps={warmup_steps} leaves none of total_steps={total_steps} '
        f'for the {schedule} decay.'
      )
  elif end_lr:
    raise ValueError(
      f'end_lr={end_lr}, but schedule={schedule!r}; only linear and cosine end.'
    )
  if schedule == 'inverse_sqrt' and not warmup_steps:
    raise ValueError('warmup_steps=0; inverse_sqrt needs at least 1.')

  def rate(count):
    step = jnp.asarray(count, jnp.float32) + 1
    return SCHEDULES[schedule](step, lr, warmup_steps, total_steps, end_lr)

  if name == 'adam':
    tx = optax.adam(rate, b1, b2, eps)
  elif name == 'muon':
    tx = optax.contrib.muon(
      rate,
      eps=eps,
      weight_decay=weight_decay,
      weight_decay_mask=decay_mask,
      adam_b1=b1,
      adam_b2=b2,
      adam_weight_decay=weight_decay,
      muon_weight_dimension_numbers=matrices,
      consistent_rms=0.2,
    )
  else:
    tx = optax.adamw(
      rate, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask
    )
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  parts.append(tx)
  if layer_decay < 1:
    parts.append(optax.stateless(functools.partial(_by_layer, layer_decay)))
  return optax.chain(*parts) if len(parts) > 1 else tx, rate


# Schedules. step counts from 1, so that the first update is not zero. ---------


def _warm(step, warmup):
  return jnp.minimum(step / max(warmup, 1), 1.0)


def constant(step, lr, warmup, total, end_lr):
  """lr min(step / warmup, 1)."""
  return lr * _warm(step, warmup)


def inverse_sqrt(step, lr, warmup, total, end_lr):
  """lr min(step / warmup, sqrt(warmup / step)).

  Attention Is All You Need, eq. 3, with lr = (D warmup)^(-1/2); fairseq's
  inverse_sqrt with warmup_init_lr = 0.
  """
  return lr * jnp.minimum(step / warmup, jnp.sqrt(warmup / step))


def linear(step, lr, warmup, total, end_lr):
  """lr step / warmup, then lr (1 - p) + end_lr p; p from 0 to 1 at total."""
  p = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
  return _warm(step, warmup) * (lr + (end_lr - lr) * p)


def cosine(step, lr, warmup, total, end_lr):
  """As `linear`, with (1 - cos(pi p)) / 2 for p."""
  p = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
  p = (1 - jnp.cos(jnp.pi * p)) / 2
  return _warm(step, warmup) * (lr + (end_lr - lr) * p)


SCHEDULES = {f.__name__: f for f in (inverse_sqrt, linear, cosine, constant)}


# Parameters -------------------------------------------------------------------


def decay_mask(params):
  """True where weights decay: rank >= 2 and no bias or scale by name.

  The name decides besides the rank, because the bias of a head projection is
  [H, K] and a norm's scale is [layers, D] when layers are scanned.
  """

  def decays(path, x):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return x.ndim >= 2 and not ('bias' in name or 'scale' in name)

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params):
  """Which parameters are matrices to Muon, and which of their axes are inputs.

  Kernels of layers: [D, H, K] is [D, H K], out/kernel [H, V, D] is [H V, D].
  Embeddings, heads, biases and all else are Adam's (None).
  """

  def axes(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if _layer(name) < 0 or not name.endswith('kernel'):
      return None
    inputs = x.ndim - 1 if name.endswith('out/kernel') else 1
    return optax.contrib.MuonDimensionNumbers(
      tuple(range(inputs)), tuple(range(inputs, x.ndim))
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def layer_rates(params, decay):
  """Factors of the learning rate: decay^(n + 1 - depth), n layers.

  Depth is 0 for what makes the input (see `INPUTS`), i + 1 for layer i, n + 1
  for what comes after the layers: a new head learns at the full rate, what is
  deep in a pre-trained model moves less (Clark et al., 2020, ELECTRA).

  Returns:
    A tree like params, of floats.
  """
  names = jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'),
    params,
  )
  n = 1 + max(map(_layer, jax.tree.leaves(names)))

  def depth(name):
    if (layer := _layer(name)) >= 0:
      return layer + 1
    return 0 if name.startswith(INPUTS) else n + 1

  return jax.tree.map(lambda name: decay ** (n + 1 - depth(name)), names)


def _layer(name):
  """The i of .../layer_i/..., or -1."""
  found = re.search(r'layer_(\d+)/', name)
  return int(found[1]) if found else -1


def _by_layer(decay, updates, params):
  return jax.tree.map(jnp.multiply, updates, layer_rates(updates, decay))


def ema_update(ema, params, decay):
  """decay ema + (1 - decay) params."""
  return optax.incremental_update(params, ema, 1 - decay)


def updates(opt):
  """How many updates an optimiser has made, of its state: int32 []."""
  return optax.tree.get_all_with_path(opt, 'count')[0][1]


# Gradients --------------------------------------------------------------------


def accumulate(loss, params, batch, key, n=1):
  """Gradient of a mean over the whole batch, from n micro-batches in a scan.

    L = sum_i s_i / sum_i w_i;  dL/dp = (sum_i ds_i/dp) / sum_i w_i

  Exact whatever the weights w_i are (NaN if all are zero). Micro-batch i takes
  the rows i, i + n, ...: of rows split over devices, each device cuts its own
  and none are exchanged. Sums are float32 at least.

  Args:
    loss: (params, batch, key) -> (s, (w, aux)) with scalars s and w, w free of
      params, and aux a dict of sums over the rows.
    params: pytree.
    batch: pytree of [B, ...].
    key: of dropout; micro-batch i gets fold_in(key, i), unless n = 1.
    n: micro-batches; divides B, best into multiples of the device count.

  Returns:
    (L, (sum_i w_i, sum_i aux_i)), dL/dp: like jax.value_and_grad.

  Raises:
    ValueError: n does not divide B.
  """
  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  if n != 1:
    value_and_grad = _scanned(value_and_grad, n)
  (s, (w, aux)), grads = value_and_grad(params, batch, key)
  grads = jax.tree.map(lambda g, p: (g / w).astype(p.dtype), grads, params)
  return (s / w, (w, aux)), grads


def _scanned(f, n):
  """f(params, batch, key), summed over n micro-batches."""

  def total(params, batch, key):
    B = len(jax.tree.leaves(batch)[0])
    if n < 1 or B % n:
      raise ValueError(f'{n} micro-batches do not divide a batch of {B} rows.')

    def cut(x):
      return jnp.moveaxis(x.reshape(B // n, n, *x.shape[1:]), 1, 0)

    def add(sums, x):
      i, rows = x
      new = f(params, rows, jax.random.fold_in(key, i))
      return jax.tree.map(jnp.add, sums, new), None

    def zero(x):
      return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

    xs = jnp.arange(n), jax.tree.map(cut, batch)
    one = jax.tree.map(lambda x: x[0], xs[1])
    zeros = jax.tree.map(zero, jax.eval_shape(f, params, one, key))
    return lax.scan(add, zeros, xs)[0]

  return total
