# SPDX-License-Identifier: Apache-2.0
"""Every experiment in configs/ can be built, at full size, without data."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from collab import accounting, attention, models
from collab.training import optim, workdir

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[!_]*.py'))
ARGUMENTS = dict(wmt14=('', 'sample', 'small'))  # of a family


def get(name, argument=''):
  return importlib.import_module(f'configs.{name}').get_config(argument)


def flat(config, prefix=''):
  """{'model.dim': 512, ...}"""
  found = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def cases():
  for name in NAMES:
    for argument in ARGUMENTS[name.split('_')[0]]:
      yield pytest.param(name, argument, id=f'{name}:{argument}')


def batch_of(config):
  """What the model sees at its initialisation."""
  row = jax.ShapeDtypeStruct((1, config.data.row_length), jnp.int32)
  keys = ('source', 'target', 'target_inputs')
  ends = ('', '_segments', '_positions')
  return {key + end: row for key in keys for end in ends}


def test_there_are_configs():
  variants = {f'wmt14_{name}' for name in attention.names()}
  assert set(NAMES) >= {'wmt14'} | variants


@pytest.mark.parametrize('name, argument', list(cases()))
def test_builds(name, argument):
  config = get(name, argument).lock()
  fields = config.model.to_dict()
  model = models.build(**fields, vocab_size=config.data.vocab_size)
  tx, schedule = optim.build(total_steps=config.total_steps, **config.optim)

  def init(batch):
    params = model.init(jax.random.key(0), batch)['params']
    return params, tx.init(params)

  params, _ = jax.eval_shape(init, batch_of(config))
  embedding = config.data.vocab_size * config.model.dim
  cost = accounting.attention_cost(model)
  assert 0 < cost['parameters'] < accounting.size(params) - embedding
  assert float(schedule(config.optim.warmup_steps)) == pytest.approx(
    config.optim.lr, rel=0.01
  )
  # What a run would only find out at its end.
  assert config.checkpoint.average <= config.checkpoint.keep
  spacing = config.every.checkpoint
  assert config.checkpoint.average * spacing <= config.total_steps
  assert config.every.eval % spacing == 0  # else none could be the best


@pytest.mark.parametrize('name', NAMES)
def test_is_a_difference_in_attention(name):
  """A variant's file changes model.attention, to what its name says."""
  family, _, variant = name.partition('_')
  for argument in ARGUMENTS[family]:
    config, base = get(name, argument), get(family, argument)
    assert config.model.attention.name == (variant or 'mha')
    assert config.model.attention.num_heads == base.model.attention.num_heads
    config.model.attention = base.model.attention = {}
    assert config == base


@pytest.mark.parametrize('name', NAMES)
def test_unknown_argument(name):
  with pytest.raises(
    ValueError, match="takes sample, small or nothing, got 'sampel'"
  ):
    get(name, 'sampel')


@pytest.mark.parametrize('argument', ['', 'sample', 'small'])
def test_hash_changes_with_any_value(argument):
  config = get('wmt14', argument)
  hashes = {workdir.config_hash(config)}
  leaves = flat(config)
  assert 'model.attention.num_heads' in leaves
  other = {str: 'other', tuple: ('other',), bool: None, int: 7, float: 0.77}
  for key, value in leaves.items():
    changed = get('wmt14', argument)
    new = not value if isinstance(value, bool) else other[type(value)]
    changed.update_from_flattened_dict({key: new})
    hashes.add(workdir.config_hash(changed))
  assert len(hashes) == 1 + len(leaves)
  assert workdir.config_hash(get('wmt14', argument)) in hashes


def test_hash_is_kept(tmp_path):
  """A run that goes on has the hash that it began with."""
  config = get('wmt14_mhe_mul', 'sample').lock()
  with config.unlocked():
    config.data.files = ('train=a,b', 'test=c')
  workdir.claim(config, tmp_path)
  again = workdir.claim(None, tmp_path)
  assert again == config
  assert workdir.config_hash(again) == workdir.config_hash(config)
