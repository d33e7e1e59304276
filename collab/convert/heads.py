# SPDX-License-Identifier: Apache-2.0
"""Masks attention heads, and measures what a model loses without each.

  out = sum_h mask_h o_h Wo_h + b

A mask multiplies a head's rows of the output projection. Every variant has one,
so no model needs to support masks, and a masked model is an ordinary
checkpoint. A layer that several blocks share (ALBERT) has one mask for all its
calls. Masks are dicts {path of a layer: array [H]}.

Axes: B batch, T tokens, D model, H heads; N heads of all layers.
"""

from collections.abc import Callable, Iterable, Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from collab.convert import intercept
from collab.models.stack import Stack


def ones(params: Mapping) -> dict:
  """Makes masks of ones, which change nothing, for all layers in call order.

  Raises:
    ValueError: the tree has no attention layers, or one with value_dims, whose
      parameters do not tell where heads begin.
  """
  masks = {}
  for path in intercept.paths(params):
    kernel = intercept.get(params, path + intercept.OUT)
    if kernel.ndim != 3:
      raise ValueError(
        f'{"/".join(path)} has heads of several widths (value_dims); masks '
        'need heads of one width.'
      )
    masks[path] = np.ones(len(kernel))
  return masks


def mask_heads(params: Mapping, masks: Mapping) -> Mapping:
  """Multiplies heads by masks; returns new parameters.

  Args:
    params: parameters of a model with any variants of attention.
    masks: masks of some of its layers, or of all.

  Raises:
    ValueError: a path has no attention, or a mask is not [H].
  """
  legal = {path: x.shape for path, x in ones(params).items()}
  for path, mask in masks.items():
    if np.shape(mask) != legal.get(path):
      shapes = ', '.join(f'{"/".join(p)} {shape}' for p, shape in legal.items())
      raise ValueError(
        f'The mask of {"/".join(path)} has shape {np.shape(mask)}; the '
        f'attention layers have {shapes}.'
      )
    kernel = intercept.get(params, path + intercept.OUT)
    rows = mask.astype(kernel.dtype)[:, None, None]
    params = intercept.put(params, path + intercept.OUT, kernel * rows)
  return params


def importance(loss: Callable, params: Mapping, batches: Iterable) -> dict:
  """Computes |dL/dmask_h| = |sum(Wo_h * dL/dWo_h)|, the mean over batches.

  Michel et al., arXiv 1905.10650, with two differences. Their batch is one
  example; in larger batches gradients of opposite sign cancel. They divide
  those of a layer by their norm; here the caller may do so.

  Args:
    loss: a scalar function of params and a batch.
    params: parameters of a model with any variants of attention.
    batches: each shape is compiled once.

  Returns:
    {path: float64 [H]}.

  Raises:
    ValueError: there are no batches.
  """

  @jax.jit
  def slopes(params, batch):
    masked = lambda masks: loss(mask_heads(params, masks), batch)
    return jax.grad(masked)(ones(params))

  found = [jax.tree.map(np.abs, slopes(params, b)) for b in batches]
  if not found:
    raise ValueError('There are no batches that importance could be found on.')
  return jax.tree.map(lambda *x: np.mean(np.asarray(x, np.float64), 0), *found)


def ablation(outputs: Callable, params: Mapping, batches: Iterable) -> dict:
  """Computes E|f - f without head h|^2 / E|f - E f|^2 over tokens f, each head.

  All other heads stay. A value of 1 is as wrong as the mean output would be.

  Args:
    outputs: a function of params and a batch that returns f [B, T, D] and which
      tokens count, bool [B, T]: `hidden` of a model.
    params: parameters of a model with any variants of attention.
    batches: each is run N + 1 times; each shape is compiled once.

  Returns:
    {path: float64 [H]}.

  Raises:
    ValueError: there are no batches, or the outputs are not finite or all
      padding.
  """

  @jax.jit
  def run(params, masks, batch):
    f, valid = outputs(mask_heads(params, masks), batch)
    return jnp.where(valid[..., None], f, 0).astype(jnp.float32), valid.sum()

  whole = ones(params)
  change = {path: np.zeros(len(mask)) for path, mask in whole.items()}
  each = [(path, h) for path, mask in whole.items() for h in range(len(mask))]
  n, total, square = 0, 0.0, 0.0
  for batch in batches:
    f, count = (np.asarray(x, np.float64) for x in run(params, whole, batch))
    n, total = n + count, total + f.sum((0, 1))
    square += (f**2).sum()
    for path, h in tqdm(each, 'heads', leave=False, disable=None):
      masks = whole | {path: np.where(np.arange(len(whole[path])) == h, 0.0, 1)}
      without, _ = run(params, masks, batch)
      change[path][h] += ((f - np.asarray(without)) ** 2).sum()
  if not n:
    raise ValueError('No tokens to leave heads out on: no batches, or padding.')
  spread = square - (total**2).sum() / n
  if not (np.isfinite(spread) and spread > 0):
    raise ValueError('The outputs are all the same, or not finite.')
  return {path: x / spread for path, x in change.items()}


def hidden(model: nn.Module, params: Mapping, batch: Mapping) -> tuple:
  """Returns the output of the last stack of blocks, and which is not padding.

  Args:
    model: model of models.build, without scan and remat.
    params: its parameters.
    batch: a batch of the model.

  Returns:
    [B, T, D], bool [B, T].
  """
  *_, last = ones(params)
  stacks = []

  def look(function, args, kwargs, context):
    out = function(*args, **kwargs)
    if isinstance(context.module, Stack) and context.method_name == '__call__':
      stacks.append(out)
    return out

  with nn.intercept_methods(look):
    _, calls = intercept.run(model, params, batch, wanted=[last])
  return stacks[-1], calls[last][-1].x_valid
