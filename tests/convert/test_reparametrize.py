# SPDX-License-Identifier: Apache-2.0
"""Models with another attention: exact where they can be; budgets, errors."""

import jax
import numpy as np
import pytest

from collab import accounting, models
from collab.convert import budgets, reparametrize
from collab.convert.calibration import Calibration
from collab.convert.decompose import rank_search
from tests.convert import checkpoints
from tests.convert.test_huggingface import batch_of, io
from tests.few import few

# One of each family that conversion has to get right, with padding.
FAMILIES = [
  'albert_ForSequenceClassification',
  'bert_ForMaskedLM',
  'deit_ForImageClassification',
  'distilbert_ForSequenceClassification',
  'gpt2_LMHeadModel',
  'marian_MTModel',
  'roberta_ForQuestionAnswering',
  'vit_ForImageClassification',
]


def given(case):
  """Fields, parameters, batch and the outputs of a case's model."""
  found = checkpoints.load(case)
  batch, _ = batch_of(next(iter(io(case))))
  return found.model, found.params, batch, apply(found, batch)


def apply(found, batch):
  model = models.build(**found.model)
  return jax.tree.leaves(model.apply({'params': found.params}, batch))


def calibrated(model, batch):
  return Calibration(models.build(**model), [batch])


def full(model, name):
  """Fields with which a conversion loses nothing."""
  D, H = model['dim'], model['attention']['num_heads']
  return dict(
    collab=dict(shared_dim=D), gqa=dict(kv_heads=H), mla=dict(latent_dim=D)
  )[name]


@few(FAMILIES, ['bert_ForMaskedLM', 'gpt2_LMHeadModel', 'marian_MTModel'])
def test_full_width_changes_nothing(case):
  """The mask too: a batch has padding, which must stay unseen."""
  model, params, batch, want = given(case)
  fields = dict(name='collab', **full(model, 'collab'), sweeps=2)
  new = reparametrize.convert(model, params, fields, calibrated(model, batch))
  for got, x in zip(apply(new, batch), want, strict=True):
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)
  assert [row['error'] for row in new.rows] == pytest.approx(
    [0] * len(new.rows), abs=1e-3
  )


@pytest.mark.parametrize('name', ['gqa', 'mla'])
def test_full_width_of_other_variants(name):
  case = 'bert_Model'
  model, params, batch, want = given(case)
  fields = dict(name=name, **full(model, name))
  new = reparametrize.convert(model, params, fields)
  assert new.model['attention'] == dict(
    name=name, num_heads=3, **full(model, name)
  )
  for got, x in zip(apply(new, batch), want, strict=True):
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)


def test_layers_may_differ():
  model, params, batch, _ = given('bert_Model')
  biases = 'content', 'none'
  fields = dict(name='collab', shared_dim=(7, 5), bias=biases, sweeps=3)
  seen = calibrated(model, batch)
  new = reparametrize.convert(model, params, fields, seen)
  assert new.model['attention']['shared_dim'] == (7, 5)
  for i, k in enumerate((7, 5)):
    layer = new.params['encoder'][f'layer_{i}']['self_attention']
    assert layer['key']['kernel'].shape == (12, k)
    assert ('content_bias' in layer) == (biases[i] == 'content')
    assert new.rows[i]['shared_dim'] == k
  compressed = models.build(**new.model)
  for model_, column in (
    (compressed, 'parameters'),
    (accounting.with_mha(compressed), 'parameters_before'),
  ):
    parameters = accounting.attention_parameters(model_)
    assert parameters == sum(row[column] for row in new.rows)
  apply(new, batch)  # the fields fit the parameters
  again = reparametrize.convert(model, params, fields, seen)
  jax.tree.map(np.testing.assert_array_equal, again.params, new.params)


@pytest.mark.parametrize('kind', ['parameters', 'cache'])
def test_budgets(kind):
  """As a number and as a share, with little left over."""
  model, params, batch, _ = given('bert_Model')
  seen, collab = calibrated(model, batch), dict(name='collab', sweeps=3)
  new = reparametrize.convert(model, params, collab, seen, (kind, 0.7))
  whole = sum(row[f'{kind}_before'] for row in new.rows)
  size = sum(row[kind] for row in new.rows)
  column = 12 + 12 + 3 if kind == 'parameters' else 1
  assert 0.7 * whole - 2 * column < size <= 0.7 * whole
  assert len(new.trials) == budgets.TRIALS
  assert new.model['attention']['value_dims'] == tuple(
    row['value_dims'] for row in new.rows
  )
  for row in new.rows:
    assert len(row['value_dims']) == 3
  got = apply(new, batch)  # the fields fit the parameters
  assert all(np.isfinite(x).all() for x in got)
  again = reparametrize.convert(
    model, params, collab, seen, (kind, int(0.7 * whole))
  )
  jax.tree.map(np.testing.assert_array_equal, again.params, new.params)


def test_a_budget_of_mha():
  model, params, batch, _ = given('bert_Model')
  seen = calibrated(model, batch)
  new = reparametrize.convert(
    model, params, dict(name='mha'), seen, ('parameters', 0.7)
  )
  whole = sum(row['parameters_before'] for row in new.rows)
  size = sum(row['parameters'] for row in new.rows)
  assert 0.7 * whole - 2 * (12 + 12 + 1) < size <= 0.7 * whole
  widths = new.model['attention']['key_features']
  assert widths == new.rows[0]['key_features'] < 12
  apply(new, batch)  # the fields fit the parameters


@pytest.mark.parametrize('most', [4, 0.7])
def test_a_budget_of_heads(most):
  model, params, batch, _ = given('bert_Model')
  seen = calibrated(model, batch)
  new = reparametrize.convert(
    model, params, dict(name='mha'), seen, ('heads', most)
  )
  heads = [row['num_heads'] for row in new.rows]
  assert sum(heads) == 4
  for row in new.rows:
    gone = (3 - row['num_heads']) * (4 * 12 * 4 + 3 * 4)
    assert row['parameters'] == row['parameters_before'] - gone
  apply(new, batch)
  again = reparametrize.convert(
    model, params, dict(name='mha', num_heads=tuple(heads)), seen
  )
  jax.tree.map(np.testing.assert_array_equal, again.params, new.params)


def test_a_budget_for_everything():
  model, params, batch, want = given('bert_Model')
  seen = calibrated(model, batch)
  new = reparametrize.convert(
    model, params, dict(name='collab'), seen, ('parameters', 10**6)
  )
  assert new.model['attention'] == dict(
    name='collab', num_heads=3, shared_dim=12
  )
  for got, x in zip(apply(new, batch), want, strict=True):
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)


def test_budgets_of_an_error():
  model, params, batch, _ = given('bert_Model')
  seen, sizes = calibrated(model, batch), []
  for most in (0.5, 0.1, 0.0):
    new = reparametrize.convert(
      model, params, dict(name='collab'), seen, ('error', most)
    )
    for row, curve in zip(new.rows, new.curves, strict=True):
      errors = dict(zip(curve.widths, curve.errors, strict=True))
      assert errors[row['shared_dim']] <= most
      assert all(e > most for w, e in errors.items() if w < row['shared_dim'])
    sizes.append(sum(row['parameters'] for row in new.rows))
  assert sizes[0] < sizes[1] < sizes[2]
  assert 'value_dims' not in new.model['attention']


def test_what_a_budget_buys_first():
  gains = [np.array([4.0, 1, 0]), np.array([[9.0, 2], [8, 1]])]
  prices = [1, 3]
  for budget, want in (
    (4, ([1, 0, 0], [[1, 0], [0, 0]])),
    (6, ([1, 0, 0], [[1, 0], [0, 0]])),
    (7, ([1, 0, 0], [[1, 0], [1, 0]])),
    (8, ([1, 1, 0], [[1, 0], [1, 0]])),
    (99, ([1, 1, 1], [[1, 1], [1, 1]])),
  ):
    got = rank_search.buy(gains, prices, budget)
    for a, b in zip(got, want, strict=True):
      np.testing.assert_array_equal(a, b)


def test_a_budget_counts_the_bias_that_is_asked_for():
  model, params, _, _ = given('bert_Model')
  model = model | dict(scan=True)
  fields, kind = dict(name='collab', sweeps=3), 'parameters'
  for bias, more in (('content', 2 * 36), ('none', 0)):
    least = 2 * (27 + 25 + 12) + more  # a column each, and the output's bias
    own = fields | dict(bias=bias)
    new = reparametrize.convert(model, params, own, budget=(kind, least))
    assert sum(row[kind] for row in new.rows) == least
    assert not new.model['scan']  # layers differ
    with pytest.raises(ValueError, match=f'least widths .* has {least}'):
      reparametrize.convert(model, params, own, budget=(kind, least - 1))


def test_refining_brings_outputs_closer():
  model, params, batch, _ = given('bert_Model')
  seen = calibrated(model, batch)
  fields = dict(name='mqa')
  plain, refined = (
    reparametrize.convert(model, params, fields, seen, refine=steps)
    for steps in (0, 30)
  )
  for before, after in zip(plain.rows, refined.rows, strict=True):
    assert after['error'] < 0.9 * before['error']


@pytest.mark.parametrize(
  'fields, options, message',
  [
    (dict(name='sha'), {}, 'attention=sha: mha can be converted to collab'),
    (dict(name='collab'), {}, 'attention=collab needs shared_dim'),
    (dict(name='collab', dim=3), {}, 'collab has no field dim; it has shared'),
    (dict(name='collab', shared_dim=0), {}, 'width 0; expected 1 to 12'),
    (dict(name='collab', shared_dim=13), {}, 'width 13; expected 1 to 12'),
    (dict(name='collab', shared_dim=(3, 3, 3)), {}, '3 values for 2 layers'),
    (dict(name='gqa', kv_heads=2), {}, 'kv_heads=2 does not divide'),
    (dict(name='mqa', kv_heads=3), {}, 'mqa: kv_heads=3; expected 1,'),
    (dict(name='mqa'), dict(refine=2), 'refine=2 needs calibration'),
    (dict(name='mqa'), dict(budget=('error', 1)), 'budget=error=1 chooses'),
    (dict(name='mha'), dict(budget=('error', 1)), 'the widths of collab; give'),
    (dict(name='mha'), dict(budget=('heads', 1)), 'one for each of 2 layers'),
    (
      dict(name='mha', num_heads=2),
      dict(budget=('cache', 0.5)),
      'the widths of collab or mha; give no other',
    ),
    (dict(name='mha', num_heads=4), {}, 'num_heads=4; expected 1 to 3'),
    (
      dict(name='mha', key_features=4),
      {},
      'a multiple of num_heads=3',
    ),
    (
      dict(name='collab'),
      dict(budget=('parameters', 9)),
      'budget parameters=9; with the least widths the attention has 200',
    ),
    (dict(name='collab'), dict(budget=('error', -1)), 'error=-1; expected'),
    (dict(name='collab'), dict(budget=('cache', 1.5)), 'cache=1.5; expected a'),
    (dict(name='collab'), dict(budget=('size', 9)), "'size'; there are error"),
  ],
)
def test_errors(fields, options, message):
  model, params, _, _ = given('bert_Model')
  with pytest.raises(ValueError, match=message):
    reparametrize.convert(model, params, fields, **options)


def test_only_mha_can_be_converted():
  model, params, _, _ = given('bert_Model')
  new = reparametrize.convert(
    model, params, dict(name='collab', shared_dim=5, sweeps=1)
  )
  with pytest.raises(ValueError, match=r'is collab, .*; expected mha, norm'):
    reparametrize.convert(new.model, new.params, dict(name='mqa'))


@pytest.mark.parametrize(
  'own, shown',
  [
    (dict(normalize_qk=True), r'is mha, normalize_qk=True, .*; expected mha'),
    (dict(qk_norm=True), r'qk_norm=True, .*; expected mha'),
    (dict(rope=dict(base=7.0)), r'rope=Rope\(base=7.0.*; expected mha'),
  ],
)
def test_what_is_done_to_queries_and_keys_is_not_converted(own, shown):
  model, params, _, _ = given('bert_Model')
  changed = dict(attention=dict(model['attention']) | own)
  for name in ('mqa', 'mha'):
    with pytest.raises(ValueError, match=shown):
      reparametrize.convert(model | changed, params, dict(name=name))
