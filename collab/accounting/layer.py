# SPDX-License-Identifier: Apache-2.0
"""What one attention layer costs. Nothing is run: all of it is shapes."""

import dataclasses

import jax
import jax.numpy as jnp

from collab import attention
from collab.accounting import trace


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a layer, one sequence of T tokens and batch 1.

  Attributes:
    parameters: scalars.
    forward: FLOPs of its matrix products.
    training: those of forward and backward, to parameters and input.
    prefill: those of T tokens into an empty cache of T places.
    decode: those of one more token with T - 1 in the cache.
    cache: bytes that decoding keeps.
    activations: bytes kept for the backward pass.
  """

  parameters: int = 0
  forward: int = 0
  training: int = 0
  activations: int = 0
  prefill: int = 0
  decode: int = 0
  cache: int = 0

  def __add__(self, other):
    mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
    return Cost(*(a + b for a, b in zip(mine, others, strict=True)))

  def repeated(self, runs):
    """Of a layer that runs so many times with the same parameters."""
    fields = {k: v * runs for k, v in dataclasses.asdict(self).items()}
    return Cost(**fields | dict(parameters=self.parameters))


def of(fields, D, T, *, causal=False, cross=False, dtype=jnp.float32):
  """Cost of a layer.

  Args:
    fields: of attention.build, with its name.
    D: width of the model.
    T: tokens, of the memory too.
    causal: self-attention of a decoder: masked, and decodes from a cache.
    cross: attends to a memory, which it keeps when decoding.
    dtype: of the computation.
  """
  layer = attention.build(**fields, dtype=dtype)
  x, *memory = [jax.ShapeDtypeStruct((1, T, D), dtype)] * (1 + cross)
  forward, params = _forward(layer, causal, x, *memory)
  arguments = params, x, *memory
  gradient = jax.value_and_grad(
    lambda *arguments: forward(*arguments).sum(), tuple(range(len(arguments)))
  )
  return Cost(
    parameters=layer.count(D),
    forward=trace.flops(forward, *arguments),
    training=trace.flops(gradient, *arguments),
    activations=trace.saved_bytes(forward, *arguments),
    **(_decoding(layer, params, x, memory) if causal or cross else {}),
  )


def _forward(layer, causal, *inputs):
  """The layer as a function of parameters and inputs; shapes of the former."""
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
  held = jax.tree.leaves(cache['past'].replace(index=()))
  return dict(
    prefill=prefill,
    decode=trace.flops(step, params, cache, token),
    cache=sum(x.size * x.dtype.itemsize for x in held),
  )


def as_mha(fields):
  """Multi-head attention with as many heads, as wide, from an attention's."""
  kept = 'num_heads', 'qkv_features'
  return dict(name='mha') | {k: fields[k] for k in kept if k in fields}


def break_even(fields, D):
  """T* below which a forward pass costs less than multi-head attention's.

  A forward pass over T tokens takes a T + b T^2 FLOPs; T* is where those of the
  two are equal: 0 where MHA is never dearer, inf where it always is.
  """
  a, b = polynomial(fields, D)
  a_mha, b_mha = polynomial(as_mha(fields), D)
  if b <= b_mha and a <= a_mha and (a, b) != (a_mha, b_mha):
    return float('inf')
  return max(0.0, (a_mha - a) / (b - b_mha)) if b > b_mha else 0.0


def polynomial(fields, D):
  """(a, b) of a T + b T^2, from two lengths that are one block each."""
  layer, T, found = attention.build(**fields), 64, []
  for n in (T, 2 * T):
    x = jax.ShapeDtypeStruct((1, n, D), jnp.float32)
    forward, params = _forward(layer, False, x)
    found.append(trace.flops(forward, params, x))
  one, two = found
  b = (two - 2 * one) / (2 * T * T)
  return one / T - b * T, b
