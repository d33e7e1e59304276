# SPDX-License-Identifier: Apache-2.0
"""The table of axes has every parameter of every model, and says so if not."""

import importlib

import jax
import pytest

from benchmarks import scaling
from collab import models
from collab.models import axes
from collab.runtime import tree_table
from collab.training import sharding
from tests.attention.variants import FIELDS, NAMES


def decoder(name='mha', **fields):
  own = dict(num_heads=6) | FIELDS.get(name, {}) | fields
  return models.build(
    'decoder',
    vocab_size=36,
    dim=24,
    mlp_dim=48,
    num_layers=2,
    attention=dict(name=name, **own),
  )


def rules(model, changes=''):
  params = models.shapes(model)
  names = tree_table.named(params)
  ranks = {name: len(x.shape) for name, x in names.items()}
  return axes.rules(model, ranks, changes)


def specs(model, fsdp, tensor, changes=''):
  """{name: PartitionSpec as a tuple}."""
  params = models.shapes(model)
  mesh = jax.sharding.AbstractMesh((1, fsdp, tensor), sharding.AXES)
  state = dict(params=params, mu=params)
  found = sharding.state_shardings(mesh, state, rules(model, changes))
  assert found['mu'] == found['params']
  named = tree_table.named(found['params'])
  return {name: tuple(x.spec) for name, x in named.items()}


@pytest.mark.parametrize('name', scaling.CONFIGS)
def test_all_parameters_of_all_families(name):
  family, _, argument = name.partition(':')
  config = importlib.import_module(f'configs.{family}').get_config(argument)
  fields = config.model.to_dict() | scaling.DECIDED_BY_DATA[family]
  for field in ('vocab_size', 'image_size'):
    if field in config.data:
      fields[field] = config.data[field]
  model = models.build(**fields)
  assert (
    rules(model).axes.keys() == tree_table.named(models.shapes(model)).keys()
  )


@pytest.mark.parametrize('name', NAMES)
def test_what_heads_share_is_whole(name):
  """Of what is per head, each device has a part; of the rest, all."""
  prefix = 'decoder/layer_1/self_attention/'
  model = decoder(name)
  table, found = rules(model).axes, specs(model, 1, 3)
  mine = {k: x for k, x in found.items() if k.startswith(prefix)}
  assert mine[f'{prefix}out/kernel'] == ('tensor',)
  for key, spec in mine.items():
    per_head = {'heads', 'groups'} & set(table[key])
    if name == 'mqa' and 'groups' in per_head:  # one group, shared by all
      per_head = set()
    assert ('tensor' in spec) == bool(per_head), key


def test_fsdp_takes_another_axis_than_tensor(monkeypatch):
  monkeypatch.setattr(sharding, 'SMALL', 1)
  found = specs(decoder(), 2, 3)
  layer = 'decoder/layer_0'
  assert found[f'{layer}/self_attention/query/kernel'] == ('fsdp', 'tensor')
  assert found[f'{layer}/self_attention/out/kernel'] == ('tensor', None, 'fsdp')
  assert found[f'{layer}/mlp_in/kernel'] == ('fsdp', 'tensor')
  assert found[f'{layer}/mlp_in/bias'] == ('tensor',)
  assert found[f'{layer}/mlp_out/kernel'] == ('tensor', 'fsdp')
  assert found['embed/embedding'] == ('tensor', 'fsdp')
  assert found['positions/embedding'] == ('fsdp',)


def test_stacked_layers_stay_together(monkeypatch):
  monkeypatch.setattr(sharding, 'SMALL', 1)
  name = 'decoder/layer_*/mlp_in/kernel'
  stacked = axes.rules(decoder(), {name: 3})
  assert stacked.axes[name] == ('layer_*', 'dim', 'mlp')
  mesh = jax.sharding.AbstractMesh((1, 2, 3), sharding.AXES)
  leaf = jax.ShapeDtypeStruct((64, 24, 48), float)
  tree = {'decoder': {'layer_*': {'mlp_in': {'kernel': leaf}}}}
  (found,) = jax.tree.leaves(
    sharding.state_shardings(mesh, dict(params=tree), stacked)
  )
  assert tuple(found.spec) == (None, 'fsdp', 'tensor')


def test_normalised_queries_and_keys():
  found = rules(decoder(normalize_qk=True)).axes
  assert found['decoder/layer_0/self_attention/key_ln/scale'] == ('width',)


def test_values_of_several_widths_are_no_heads():
  found = rules(decoder(value_dims=((3, 2, 2, 2, 2, 2),) * 2)).axes
  path = 'decoder/layer_0/self_attention'
  assert found[f'{path}/value/kernel'] == ('dim', 'width')
  assert found[f'{path}/value/bias'] == ('width',)
  assert found[f'{path}/out/kernel'] == ('width', 'dim')


def test_a_config_overrides_the_table():
  whole = specs(decoder(), 1, 3, 'vocabulary=, mlp =')
  assert whole['embed/embedding'] == ()
  assert whole['decoder/layer_0/mlp_in/kernel'] == ()
  other = rules(decoder(), 'mlp_in=dim -> hidden, hidden=tensor')
  assert other.axes['decoder/layer_0/mlp_in/kernel'] == ('dim', 'hidden')
  assert other.mesh['hidden'] == 'tensor'


@pytest.mark.parametrize('changes', ['vocabulary', 'vocabulary=data', 'x'])
def test_changes_that_cannot_be_read(changes):
  with pytest.raises(
    ValueError, match=f"rules='{changes}': .*; expected AXIS="
  ):
    rules(decoder(), changes)


def test_a_change_that_is_no_pattern():
  with pytest.raises(ValueError, match=r"rules='\(=dim': '\(' is no pattern"):
    rules(decoder(), '(=dim')


def test_a_parameter_that_is_in_no_table():
  with pytest.raises(
    ValueError, match='The parameter my/kernel is in no table'
  ):
    axes.rules(decoder(), {'my/kernel': 2})
  with pytest.raises(
    ValueError, match=r'mlp_in/kernel has 4 axes, but dim mlp'
  ):
    axes.rules(decoder(), {'mlp_in/kernel': 4})


def test_what_tensor_has_to_divide():
  with pytest.raises(ValueError, match='tensor=4 does not divide heads=6 of '):
    specs(decoder(), 1, 4)
  few = specs(decoder('gqa', kv_heads=2), 1, 6)  # each device has both groups
  assert few['decoder/layer_0/self_attention/key/kernel'] == ()
