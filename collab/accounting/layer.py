# SPDX-License-Identifier: Apache-2.0
"""Computes the cost of one attention layer from shapes, without running it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collab import attention
from collab.accounting import trace


class Cost(NamedTuple):
  """The cost of a layer for one sequence of T tokens.

  Attributes:
    parameters: number of scalars.
    forward: FLOPs of the matrix products.
    training: FLOPs of forward and backward, to the parameters and the input.
    activations: bytes kept for the backward pass.
    prefill: FLOPs to fill an empty cache of T places with T tokens.
    decode: FLOPs of one more token with T - 1 tokens in the cache.
    cache: bytes of the decoding cache, without indices and positions.
  """

  parameters: int = 0
  forward: int = 0
  training: int = 0
  activations: int = 0
  prefill: int = 0
  decode: int = 0
  cache: int = 0

  def repeated(self, runs: int) -> 'Cost':
    """Returns the cost of several runs of a layer with the same parameters."""
    total = Cost(*(x * runs for x in self))
    return total._replace(parameters=self.parameters)


def of(
  fields: Mapping,
  D: int,
  T: int,
  *,
  causal: bool = False,
  cross: bool = False,
  dtype: Any = jnp.float32,
) -> Cost:
  """Computes the cost of one layer.

  Args:
    fields: fields of attention.build, including the name.
    D: width of the model.
    T: number of tokens, and length of the memory.
    causal: whether this is a decoder's self-attention, which is masked and has
      a cache.
    cross: whether the layer attends to a memory, which its cache keeps.
    dtype: dtype of the computation.
  """
  layer = attention.build(**fields, dtype=dtype)
  parameters = layer.count(D)
  layer = attention.build(**_for_length(fields, T), dtype=dtype)
  x, *memory = [jax.ShapeDtypeStruct((1, T, D), dtype)] * (1 + cross)
  forward, params = _forward(layer, causal, x, *memory)
  arguments = params, x, *memory
  gradient = jax.value_and_grad(
    lambda *arguments: forward(*arguments).sum(), tuple(range(len(arguments)))
  )
  return Cost(
    parameters=parameters,
    forward=trace.flops(forward, *arguments),
    training=trace.flops(gradient, *arguments),
    activations=trace.saved_bytes(forward, *arguments),
    **(_decoding(layer, params, x, memory) if causal or cross else {}),
  )


def _for_length(fields, T):
  """Makes the field `length`, where a variant has it, enough for T tokens."""
  if 'length' not in fields:
    return fields
  return dict(fields) | dict(length=max(T, fields['length']))


def _forward(layer, causal, *inputs):
  """Makes the layer a function (params, inputs); adds its params' shapes."""
  mask = attention.Mask(causal=True) if causal else None
  shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)['params']

  def forward(params, *inputs):
    return layer.apply({'params': params}, *inputs, mask=mask)

  return forward, shapes


def _decoding(layer, params, x, memory):
  layer = layer.clone(decode=True)
  init = jax.eval_shape(layer.init, jax.random.key(0), x, *memory)
  cache = init['cache']
  token = jax.ShapeDtypeStruct((1, 1, x.shape[2]), x.dtype)

  def step(params, cache, x):
    variables = dict(params=params, cache=cache)
    return layer.apply(variables, x, mutable='cache')

  def fill(params, cache, memory):
    variables = dict(params=params, cache=cache)
    return layer.apply(
      variables, memory, mutable='cache', method='prefill_memory'
    )

  prefill = 0
  if memory:
    prefill = trace.flops(fill, params, cache, *memory)
    cache = jax.eval_shape(fill, params, cache, *memory)[1]['cache']
  prefill += trace.flops(step, params, cache, x)
  held = jax.tree.leaves(cache['past'].kept)
  return dict(
    prefill=prefill,
    decode=trace.flops(step, params, cache, token),
    cache=sum(x.size * x.dtype.itemsize for x in held),
  )


def as_mha(fields: Mapping) -> dict:
  """Returns fields of multi-head attention with the same heads and width."""
  kept = 'num_heads', 'qkv_features', 'use_bias', 'rope', 'qk_norm', 'window'
  return dict(name='mha') | {k: fields[k] for k in kept if k in fields}


def break_even(fields: Mapping, D: int) -> float:
  """Computes T*, below which a forward pass is cheaper than MHA's.

  A forward pass over T tokens takes a T + b T^2 FLOPs; at T* both layers take
  the same number. T* is 0 if MHA never costs more, and inf if it always does.
  """
  a, b = polynomial(fields, D)
  a_mha, b_mha = polynomial(as_mha(fields), D)
  if b <= b_mha and a <= a_mha and (a, b) != (a_mha, b_mha):
    return float('inf')
  return max(0.0, (a_mha - a) / (b - b_mha)) if b > b_mha else 0.0


def polynomial(fields: Mapping, D: int) -> tuple[float, float]:
  """Fits (a, b) of a T + b T^2 to two lengths that fit in one block each."""
  T, found = 64, []
  layer = attention.build(**_for_length(fields, 2 * T))
  for n in (T, 2 * T):
    x = jax.ShapeDtypeStruct((1, n, D), jnp.float32)
    forward, params = _forward(layer, False, x)
    found.append(trace.flops(forward, params, x))
  one, two = found
  b = (two - 2 * one) / (2 * T * T)
  return one / T - b * T, b
