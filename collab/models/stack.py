# SPDX-License-Identifier: Apache-2.0
"""Runs transformer blocks, in a loop or a scan, and saves memory by remat.

Axes as in transformer.py.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from collab.models import layers, split, stacked
from collab.models.transformer import Block, BlockConfig


def _all_but_gathered(primitive, *_, **__):
  """A checkpoint policy: all is saved but gathered parameters.

  JAX's save_anything_except_these_names would save these, too (0.10).
  """
  return primitive.name != 'all_gather'


# {name: checkpoint policy}; the backward pass recomputes what it does not save.
REMAT = dict(
  none=_all_but_gathered,
  dots=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  full=jax.checkpoint_policies.nothing_saveable,
)


class Stack(nn.Module):
  """A sequence of num_layers Blocks; a last norm unless they are post-norm.

  `init` makes the parameters layer_0, layer_1, ... With `scan` they may also be
  stacked (stacked.py), as in a training step, which then compiles faster. Of
  parameters that are split over devices (split.py) each block gathers its own,
  and the backward pass gathers them again. Decoding gathers them for every
  token: a step of it sends as much as the forward pass of a whole batch.

  Attributes:
    num_layers: number of blocks.
    block: BlockConfig of all layers.
    scan: whether to run the blocks as a lax.scan; they have to be alike.
    remat: what the backward pass recomputes: 'none'; 'dots', all except
      products with parameters, which saves most of the memory for little time;
      'full', each block from its input, which saves all of it for one more
      forward pass. XLA's CPU backend saves memory only with `scan`, as it may
      undo the others.
    drop_path: probability of dropping an f of the last block; it rises linearly
      from 0 at the first block (Huang et al., 2016, stochastic depth).
    order: number of the parameters of each block, () for 0, 1, 2, ... Blocks of
      the same parameters (ALBERT) would also share a cache, so this does not
      support decoding.
    decode: whether to keep caches.
  """

  num_layers: int
  block: BlockConfig
  scan: bool = False
  remat: str = 'none'
  drop_path: float = 0.0
  order: Sequence[int] = ()
  decode: bool = False

  def setup(self) -> None:
    layers.choose('remat', self.remat, REMAT)
    if not 0 <= self.drop_path < 1:
      raise ValueError(f'drop_path must be 0 to below 1, got {self.drop_path}.')
    n = len(set(self.order)) or self.num_layers
    blocks = [self.block.of_layer(i, n) for i in range(n)]
    if self.scan and any(block != blocks[0] for block in blocks):
      raise ValueError(
        'scan=True needs layers alike, but fields of attention differ.'
      )
    make = Block
    if self.decode and split.any_split(self.variables.get('params', {})):
      gather = functools.partial(split.gather, dtype=self.block.dtype)
      methods = ['__call__', 'prefill_memory']
      make = nn.map_variables(Block, 'params', gather, methods=methods)
    self.layer = [make(block, self.decode) for block in blocks]
    if self.block.norm != 'post':
      self.norm = self.block.make_norm()

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Calls the blocks; arguments as in Block."""
    blocks = [self.layer[i] for i in self.order] or self.layer
    rates = [None] * self.num_layers
    if self.drop_path:
      rates = list(np.linspace(0, self.drop_path, self.num_layers))
    if self.is_initializing() or self.decode or not self._is_functional():
      for block, rate in zip(blocks, rates, strict=True):
        x = block(x, *args, **kwargs, drop_path=rate)
    else:
      x = self._functional(x, blocks, rates, args, kwargs)
    return x if self.block.norm == 'post' else self.norm(x)

  def _is_functional(self):
    """Whether a transformation needs it, or dropout, so as to have one pattern.

    Otherwise the blocks may sow.
    """
    params = self.variables.get('params', {})
    transformed = self.scan or self.remat != 'none' or split.any_split(params)
    return transformed or self.has_rng('dropout')

  def _functional(self, x, blocks, rates, args, kwargs):
    """Runs the blocks as pure functions, for lax.scan, remat and Splits."""
    params = self.variables['params']

    def pure(block):
      block = block.clone(parent=None)

      def run(x, layer):
        mine, key, rate = layer
        mine = split.gather(mine, self.block.dtype)
        rngs = {} if key is None else {'dropout': key}
        x = block.apply(
          {'params': mine}, x, *args, **kwargs, drop_path=rate, rngs=rngs
        )
        return x, None

      if self.remat == 'none' and not split.any_split(params):
        return run
      return jax.checkpoint(run, policy=REMAT[self.remat])

    keys = [None] * self.num_layers
    if self.has_rng('dropout'):
      keys = list(jax.random.split(self.make_rng('dropout'), self.num_layers))
    if self.scan:
      stack, run = stacked.stack(params), pure(blocks[0])
      layers = stack.get(stacked.LAYERS)  # None: all of them are layer_0
      if self.order:
        layers = jax.tree.map(lambda x: x[np.array(self.order)], layers)

      def one(x, layer):
        mine, (key, rate) = layer
        return run(x, (stack['layer_0'] if mine is None else mine, key, rate))

      more = zip(keys, rates, strict=True)
      more = jax.tree.map(lambda *x: jnp.stack(x), *more)
      return jax.lax.scan(one, x, (layers, more), self.num_layers)[0]
    for block, key, rate in zip(blocks, keys, rates, strict=True):
      x, _ = pure(block)(x, (block.variables['params'], key, rate))
    return x

  def prefill_memory(
    self, memory: jax.Array, lengths: jax.Array | None = None
  ) -> None:
    for layer in self.layer:
      layer.prefill_memory(memory, lengths)
