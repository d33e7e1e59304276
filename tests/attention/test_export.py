# SPDX-License-Identifier: Apache-2.0
"""One exported program serves every batch and every length."""

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from collab import attention
from collab.attention import blocks, kernels
from tests.attention import variants as V
from tests.attention.test_kernels import problem
from tests.attention.test_variants import check_gradients
from tests.attention.variants import close
from tests.few import few

every_case = few(V.CASES, ['mha', 'mhe_add'])
every_kernel = few(['mqa', 'mhe_add'], ['mhe_add'])
LONG = blocks.SYMBOLIC_BLOCK + 3  # more than one block


def array(*shape):
  return jax.ShapeDtypeStruct(shape, 'float32')


def random(*shape):
  return V.normal(np.random.default_rng(shape), *shape)


def arrays(make, B, T, S, widths):
  """Inputs made of these sizes, and key_valid's structure."""
  inputs = [make(B, n, D) for n, D in zip((T, S, S), widths, strict=False)]
  return inputs, jax.ShapeDtypeStruct((B, S), bool)


def exported(f, *arguments):
  """f for these shapes, as another process reads it from a file."""
  program = export.export(jax.jit(f))(*arguments)
  return jax.jit(export.deserialize(program.serialize()).call)


def gradient(layer, causal=True, **call):
  """(params, inputs, valid) -> gradients of both, and the output."""

  def run(params, inputs, valid):
    def loss(params, inputs):
      mask = attention.Mask(causal=causal, key_valid=valid)
      o = layer.apply({'params': params}, *inputs, mask=mask, **call)
      return (o**2).sum(), o

    return jax.grad(loss, (0, 1), has_aux=True)(params, inputs)

  return run


def agree(program, run, *arguments):
  """The exported program and one of fixed sizes, leaf by leaf.

  A gradient that is zero by construction is rounding alone, hence the slack.
  """
  got, want = program(*arguments), jax.jit(run)(*arguments)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))

  def compare(got, want):
    assert got.shape == want.shape
    error = np.abs(got - want).max()
    assert error <= 1e-5 * np.abs(want).max() + 1e-6 * largest

  jax.tree.map(compare, got, want)


@every_case
def test_batch_and_length_are_open(case):
  """Self-attention with its gradients, at two sizes; the long is two blocks."""
  params, D = V.params(case), V.width(case)
  b, t = export.symbolic_shape('b, t')
  run = gradient(V.build(case))
  program = exported(run, params, *arrays(array, b, t, t, [D]))
  for B, T in [(2, 5), (1, LONG)]:
    inputs, valid = arrays(random, B, T, T, [D])
    valid = np.broadcast_to(np.arange(T) != 3, valid.shape)
    mask = valid[:, None, None] & np.tril(np.ones((T, T), bool))
    is_the_paper(case, program, params, inputs, valid, mask)


@every_kernel
def test_the_length_of_a_memory_is_open(case):
  params = V.params(case, memory=True)
  widths = [x.shape[2] for x in V.inputs(case)]
  b, t, s = export.symbolic_shape('b, t, s')
  run = gradient(V.build(case), causal=False)
  program = exported(run, params, *arrays(array, b, t, s, widths))
  for B, T, S in [(2, 11, 7), (1, 3, LONG)]:
    inputs, valid = arrays(random, B, T, S, widths)
    valid = np.broadcast_to(np.arange(S) != 3, valid.shape)
    is_the_paper(case, program, params, inputs, valid, valid[:, None, None])


def is_the_paper(case, program, params, inputs, valid, mask):
  def loss(tree):
    return (V.expected(case, *tree.values(), mask=mask) ** 2).sum()

  (dparams, dinputs), o = program(params, inputs, valid)
  close(o, V.expected(case, params, *inputs, mask=mask))
  named = lambda params, inputs: dict(
    params=params, **dict(zip('xyz', inputs, strict=False))
  )
  check_gradients(loss, named(params, inputs), named(dparams, dinputs))


@every_kernel
@few(['b, 11', '2, t'], ['2, t'], 'sizes')
def test_one_size_is_open(case, sizes):
  params, D = V.params(case), V.width(case)
  run = gradient(V.build(case))
  B, T = export.symbolic_shape(sizes)
  program = exported(run, params, *arrays(array, B, T, T, [D]))
  inputs, valid = arrays(random, 2, 11, 11, [D])
  agree(program, run, params, inputs, np.ones(valid.shape, bool))


@every_kernel
def test_dropout_is_that_of_fixed_sizes(case):
  layer = V.build(case, dropout_rate=0.4)
  params, D = V.params(case), V.width(case)
  run = gradient(layer, deterministic=False, dropout_rng=jax.random.key(3))
  b, t = export.symbolic_shape('b, t')
  program = exported(run, params, *arrays(array, b, t, t, [D]))
  inputs, valid = arrays(random, 1, LONG, LONG, [D])
  agree(program, run, params, inputs, np.ones(valid.shape, bool))


@every_kernel
def test_sown_weights_and_dropout_of_each_head(case):
  """The kernel that has the weights at hand."""
  layer = V.build(case, dropout_rate=0.4, broadcast_dropout=False)
  params, D = V.params(case), V.width(case)

  def run(params, inputs):
    return layer.apply(
      {'params': params},
      *inputs,
      deterministic=False,
      dropout_rng=jax.random.key(3),
      sow_weights=True,
      mutable=['intermediates'],
    )

  b, t = export.symbolic_shape('b, t')
  program = exported(run, params, arrays(array, b, t, t, [D])[0])
  agree(program, run, params, arrays(random, 2, 5, 5, [D])[0])


@every_kernel
def test_decoding_of_any_batch(case):
  """A prefill of any length, then a token."""
  layer, params, D = V.build(case, decode=True), V.params(case), V.width(case)
  init = lambda x: layer.init(jax.random.key(0), x)['cache']
  b, n = export.symbolic_shape('b, n')
  cache = jax.eval_shape(init, array(b, 17, D))
  kept, structure = jax.tree.flatten(cache)

  def step(params, kept, x):
    cache = jax.tree.unflatten(structure, kept)
    variables = dict(params=params, cache=cache)
    o, new = layer.apply(variables, x, mutable=['cache'])
    return o, jax.tree.leaves(new['cache'])

  prefill = exported(step, params, kept, array(b, n, D))
  token = exported(step, params, kept, array(b, 1, D))
  x = random(3, 11, D)
  kept = jax.tree.leaves(init(np.zeros((3, 17, D), 'float32')))
  first, kept = prefill(params, kept, x[:, :10])
  last, _ = token(params, kept, x[:, 10:])
  mask = np.tril(np.ones((11, 11), bool))
  want = V.expected(case, params, x, mask=mask)
  close(np.concatenate([first, last], 1), want)


@few(['blockwise', 'shared_scores'], ['shared_scores'], 'kernel')
def test_memory_of_an_exported_program_is_linear_in_length(kernel):
  """Four times the length takes four times the memory, not sixteen."""

  def grad(args):
    f = lambda args: getattr(kernels, kernel)(**args)[0].sum()
    return jax.grad(f)(args)

  t = export.symbolic_shape('t')
  args, _ = problem(Gq=1, Gk=1, Gv=1, bias=True)

  def longer(T):
    like = lambda x: jax.ShapeDtypeStruct((1, *T, *x.shape[2:]), x.dtype)
    return (jax.tree.map(like, args),)

  program = exported(grad, *longer(t))

  def temporary(T):
    compiled = program.lower(*longer((T,))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4096) < 5 * temporary(1024)


@pytest.mark.parametrize('bias_range', [1.0, 200.0])
def test_both_sides_of_the_guard_are_exported(bias_range):
  """Biases that shared scores take, and biases that they do not."""

  def run(args):
    f = lambda args: (kernels.shared_scores(**args)[0] ** 2).sum()
    return jax.grad(f)(args)

  (b, t) = export.symbolic_shape('b, t')
  args, _ = problem(Gq=1, Gk=1, Gv=1, bias=True, T=9, S=9)
  args['key_bias'] = args['key_bias'] * jnp.float32(bias_range)
  open_ = lambda x: jax.ShapeDtypeStruct((b, t, *x.shape[2:]), x.dtype)
  agree(exported(run, jax.tree.map(open_, args)), run, args)
