# SPDX-License-Identifier: Apache-2.0
"""Properties of the decoder, with every variant of attention."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import accounting, decoding, models
from tests.attention.variants import QUICK
from tests.few import few
from tests.models import small
from tests.models.small import ATTENTION, D, V

B, L = 3, 7
# The blocks of configs/decoder.py.
MODERN = dict(
  dim=16, mlp='gated', norm_kind='rms', use_bias=False, positions='none'
)
DECODE = {k: x for k, x in ATTENTION.items() if k != 'linformer'}
FIELDS = dict(
  mha={}, collab=dict(shared_dim=8), mhe_add={}, mla=dict(rope_dim=2)
)
ROTARY = {
  name: dict(ATTENTION[name], rope=dict(base=100.0), qk_norm=True) | fields
  for name, fields in FIELDS.items()
}


def make(name='mha', **fields):
  default = dict(dim=D, num_layers=2, mlp_dim=17, max_length=13)
  default |= dict(vocab_size=V, attention=ATTENTION[name])
  return models.build('decoder', **default | fields)


def texts(seed=0):
  rng = np.random.default_rng(seed)
  return dict(tokens=rng.integers(5, V, (B, L)).astype(np.int32))


@functools.cache
def parameters(model):
  return small.parameters(model, texts())


def empty(model, params, capacity):
  """(step for collab.decoding, caches with places for `capacity` tokens)."""
  cache = decoding.empty_cache(model, B, capacity)
  return decoding.step_of(model, params), cache


def test_classes_of_tokens_and_of_the_last():
  tags = make(head='tag', outputs=3)
  params, batch = parameters(tags), texts()
  features = small.apply(tags, params, batch, method='features')
  kernel, bias = params['head']['kernel'], params['head']['bias']
  got = small.apply(tags, params, batch)
  small.close(got, features @ kernel + bias[None, None], 1e-5)
  of_text = params | dict(head=dict(kernel=kernel))
  classes = make(head='classify', outputs=3)
  lengths = np.array([L, 1, 4], np.int32)
  last = features[np.arange(B), lengths - 1]
  got = small.apply(classes, of_text, batch | dict(lengths=lengths))
  small.close(got, last @ kernel, 1e-5)
  got = small.apply(classes, of_text, batch)  # whole rows
  small.close(got, features[:, -1] @ kernel, 1e-5)
  for wrong in (
    lambda: tags.output_table(params),
    lambda: decoding.empty_cache(tags, B, L),
  ):
    with pytest.raises(ValueError, match="head='tag'; of tokens only 'lm' has"):
      wrong()
  with pytest.raises(ValueError, match="head='x' is none of lm, classify, tag"):
    small.shapes(make(head='x'), batch)


def test_published_parameter_count():
  """GPT-2, the smallest."""
  attention = dict(name='mha', num_heads=12)
  model = models.build('decoder', vocab_size=50_257, attention=attention)
  assert accounting.size(small.shapes(model, texts())) == 124_439_808


@few(DECODE, QUICK)
def test_costs(case):
  """What attention_cost says is what there is."""
  model = make(case)
  params, capacity = parameters(model), 11
  cost = accounting.attention_cost(model, capacity)
  layers = [params['decoder'][f'layer_{i}'] for i in range(2)]
  assert cost.parameters == sum(
    accounting.size(layer['self_attention']) for layer in layers
  )
  _, cache = empty(model, params, capacity)
  held = [x for x in jax.tree.leaves(cache) if x.ndim > 1]
  assert sum(x.nbytes for x in held) == B * cost.cache


def test_output_is_tied():
  model = make(positions='sinusoidal')
  params = parameters(model)
  assert params.keys() == {'embed', 'decoder'}
  features = small.apply(model, params, texts(), method='features')
  assert features.shape == (B, L, D)
  want = features @ params['embed']['embedding'].T
  small.close(small.apply(model, params, texts()), want)


@few(['mha', 'collab', 'mhe_add', 'mla'], ['mhe_add', 'mla'], 'name')
def test_causality(name):
  """Token t depends on tokens up to t, on all of them, and on no later one."""
  model = make(name)
  params, batch = parameters(model), texts()

  def features(change):
    def perturb(f, args, kwargs, context):
      x = f(*args, **kwargs)
      embeds = isinstance(context.module, nn.Embed)
      return x + change if embeds and context.method_name == '__call__' else x

    with nn.intercept_methods(perturb):
      x = model.apply({'params': params}, batch, method='features')
    return (x[0] ** 2 * jnp.arange(1, D + 1)[None]).sum(-1)

  by = jax.jit(jax.jacrev(features))(jnp.zeros((1, L, D)))[:, 0]
  np.testing.assert_array_equal(
    np.abs(by).max(-1) > 0, np.tril(np.ones((L, L)))
  )


@pytest.mark.parametrize(
  'rope, bases',
  [(dict(base=(10.0, 30.0)), [10.0, 30.0]), ((None, dict(base=10.0)), [10.0])],
)
def test_each_layer_may_have_its_own_rope(rope, bases):
  fields = dict(dim=16, attention=dict(ATTENTION['mha'], rope=rope))
  model, found = make(**fields), []
  assert hash(model) == hash(make(**fields))

  def look(f, args, kwargs, context):
    if context.method_name == 'rotate' and context.module.rope:
      found.append(context.module.rope.base)
    return f(*args, **kwargs)

  with nn.intercept_methods(look):
    models.shapes(model)
  assert found == [base for base in bases for _ in 'qk']
  with pytest.raises(ValueError, match=r'model.attention: .* for 3 layers'):
    make(**fields, num_layers=3)


@few(
  [{}, dict(MODERN, attention=ROTARY['mhe_add'])],
  [dict(MODERN, attention=ROTARY['mhe_add'])],
  'fields',
)
def test_a_packed_document_is_as_if_alone(fields):
  """Its logits are those of a row that has nothing else."""
  model, tokens = make(**fields), texts()['tokens'][:1]
  params, starts = parameters(model), np.array([0, 0, 0, 0, 4, 4, 4])[None]
  batch = dict(
    tokens=tokens, segments=starts, positions=np.arange(L)[None] - starts
  )
  packed = small.apply(model, params, batch)
  for begin, end in ((0, 4), (4, 7)):
    alone = small.apply(model, params, dict(tokens=tokens[:, begin:end]))
    small.close(packed[:, begin:end], alone)


# Decoding ---------------------------------------------------------------------


WAYS = {name: dict(attention=fields) for name, fields in DECODE.items()} | {
  f'modern {name}': dict(MODERN, attention=fields)
  for name, fields in ROTARY.items()
}


# Of all variants it is tested without the rest of a model.
@few(WAYS, ['collab', 'mhe_add', 'modern mla', 'modern mhe_add'])
def test_decoding_is_the_full_pass(case):
  """Prompts of unlike lengths, padded; then two tokens more."""
  model, batch = make(num_layers=1, **WAYS[case]), texts()
  params = parameters(model)
  full = small.apply(model, params, batch)
  lengths = np.array([4, 1, 3])
  real = np.arange(4)[None] < lengths[:, None]
  places = lengths[:, None] + np.arange(2)[None]

  @jax.jit
  def run(params, tokens):
    step, cache = empty(model, params, L)
    prompt = jnp.where(real, tokens[:, :4], 0)
    first, cache = step(prompt, cache, lengths=lengths)
    more, _ = step(jnp.take_along_axis(tokens, places, 1), cache)
    return first, more

  first, more = run(params, batch['tokens'])
  small.close(first[real], full[:, :4][real])
  small.close(more, np.take_along_axis(full, places[:, :, None], 1))


def test_greedy_generation_is_the_argmax():
  """Of the full pass over what was generated, row by row."""
  model = make('mhe_mul', norm='post', positions='sinusoidal')
  params, tokens = parameters(model), texts()['tokens'][:, :4]
  lengths, N = np.array([4, 1, 3]), 3

  @jax.jit
  def run(params, tokens):
    step, cache = empty(model, params, 4 + N - 1)
    return decoding.greedy(
      step,
      cache,
      tokens,
      eos=-1,
      pad=0,
      max_length=N,
      prompt_lengths=lengths,
    )

  found = run(params, tokens).tokens
  rows = np.zeros((B, L), np.int32)
  for b, n in enumerate(lengths):
    rows[b, : n + N] = np.concatenate([tokens[b, :n], found[b]])
  best = small.apply(model, params, dict(tokens=rows)).argmax(-1)
  for b, n in enumerate(lengths):
    np.testing.assert_array_equal(best[b, n - 1 : n + N - 1], found[b])


def test_more_places_than_positions():
  with pytest.raises(ValueError, match=r'14 tokens .*max_length=13'):
    empty(make(), parameters(make()), 14)


def test_dropout_scan_and_remat():
  """Off without a key; the same in a scan and with remat."""
  model = make(dropout=0.3)
  params, batch, key = parameters(model), texts(), jax.random.key(3)
  want = small.apply(model, params, batch)
  both = make(dropout=0.3, scan=True, remat='full')
  small.close(small.apply(both, params, batch), want)
  dropped = small.apply(both, params, batch, key)
  assert np.abs(dropped - want).max() > 0.01
  scan = make(dropout=0.3, scan=True)
  small.close(small.apply(scan, params, batch, key), dropped)
