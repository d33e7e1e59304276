# SPDX-License-Identifier: Apache-2.0
"""Every experiment in configs/ can be built, at full size, without data."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from collab import accounting, attention, models
from collab.training import checkpoint, optim, workdir
import configs

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[!_]*.py'))
FAMILIES = [name for name in NAMES if '_' not in name]
SIZES = ('sample', 'small')
# GLUE with other pre-trained models, whose file's name is no variant's.
REPARAM = [name for name in NAMES if name.startswith('glue_reparam')]


def get(name, argument=''):
  return importlib.import_module(f'configs.{name}').get_config(argument)


def legal(name):
  """The words that a config's argument may have, from its own error."""
  with pytest.raises(ValueError, match='there are') as info:
    get(name, '?')
  *words, last = str(info.value).split('there are ')[1].split(', ')
  assert last.startswith('KEY=VALUE')
  assert tuple(words[-2:]) == SIZES
  return words[:-2]


def arguments(name):
  """Every sub-task at every size; each size of a family that has none."""
  for subtask in legal(name) or ['']:
    for size in ('', *SIZES):
      yield ','.join(filter(None, [subtask, size]))


def flat(config, prefix=''):
  """{'model.dim': 512, ...}"""
  found = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def built(config):
  """The model of a config, what it is called with, a size that data decides."""
  fields = config.model.to_dict()

  def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)

  if config.model.name == 'vit':
    side = config.model.patch * 14
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return models.build(**fields, image_size=side, outputs=1000), images
  V, L = config.data.vocab_size, config.data.row_length
  row, kind = ints(1, L), config.model.name
  if kind == 'encoder_decoder':
    keys = ('source', 'target', 'target_inputs')
    ends = ('', '_segments', '_positions')
    batch = {key + end: row for key in keys for end in ends}
  else:
    batch = dict(tokens=row, types=row, lengths=ints(1))
  if kind == 'encoder':
    batch['positions'] = ints(1, 3)
    fields |= dict(head=HEADS[config.task.name], outputs=3)
  return models.build(**fields, vocab_size=V), batch


HEADS = dict(mlm='mlm', glue='classify', superglue='classify', squad='span')


def test_there_are_configs():
  assert set(FAMILIES) >= {
    'wmt14', 'glue', 'superglue', 'squad', 'mlm', 'lm', 'vit'
  }  # fmt: skip
  for family in FAMILIES:
    of = {'mha', 'collab', 'mhe_add', 'mhe_mul'}
    if family != 'vit':
      of |= {'sha', 'el', 'mqa', 'skv', 'gqa', 'mla'}
    assert set(NAMES) >= {f'{family}_{name}' for name in of}


@pytest.mark.parametrize('name', NAMES)
def test_builds(name):
  """Parameters and optimiser state at full size, without making them."""
  sizes = {}
  for argument in arguments(name):
    config = get(name, argument).lock()
    model, batch = built(config)
    tx, schedule = optim.build(total_steps=config.total_steps, **config.optim)
    if config.model.name == 'vit':
      batch = dict(images=batch)
    key = repr((config.model, config.data, config.optim.name))
    if key not in sizes:

      def init(batch, model=model, tx=tx):
        params = model.init(jax.random.key(0), batch)['params']
        return params, tx.init(params)

      sizes[key] = accounting.size(jax.eval_shape(init, batch)[0])
    assert 0 < accounting.attention_parameters(model) < sizes[key]
    peak = float(schedule(max(config.optim.warmup_steps, 1) - 1))
    assert peak == pytest.approx(config.optim.lr, rel=0.01)
    # What a run would only find out at its end.
    checkpoint.check(config)
    assert config.every.eval % config.every.checkpoint == 0


@pytest.mark.parametrize('name', sorted(set(NAMES) - set(REPARAM)))
def test_is_a_difference_in_attention(name):
  """A variant's file changes model.attention, to what its name says."""
  family, _, variant = name.partition('_')
  for argument in ('', *SIZES):
    config, base = get(name, argument), get(family, argument)
    assert config.model.attention.name == (variant or 'mha')
    assert config.model.attention.num_heads == base.model.attention.num_heads
    config.model.attention = base.model.attention = {}
    assert config == base


@pytest.mark.parametrize('name', REPARAM)
def test_reparametrised_is_glue_but_for_the_model(name):
  config, base = get(name, 'rte'), get('glue_collab', 'rte')
  assert config.model.attention.shared_dim == config.model.dim // 2
  assert get(name, 'attention=mha').model.attention.to_dict() == dict(
    name='mha', num_heads=12, key_features=0
  )
  config.model = base.model = {}
  assert config == base
  with pytest.raises(ValueError, match="attention='sha'; there are mha, coll"):
    get(name, 'attention=sha')


@pytest.mark.parametrize(
  'name, parameters',
  [
    # facts of the paper: embeddings, layers and pooler, no head
    ('glue_reparam_distilbert', 62_897_664),
    ('glue_reparam_albert', 11_106_048),
  ],
)
def test_parameters_of_the_paper(name, parameters):
  config = get(name, 'shared_dim=384')
  model, batch = built(config)
  model = model.clone(
    head='none', vocab_size=30_000 if model.shared else 30_522
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
  assert accounting.size(shapes) == parameters


@pytest.mark.parametrize('name', FAMILIES)
def test_families_have_the_same_keys(name):
  config, wmt14 = get(name), get('wmt14')
  assert set(config) == set(wmt14)
  for part in ('optim', 'every', 'checkpoint'):
    assert set(config[part]) == set(wmt14[part]), part


# The argument -----------------------------------------------------------------


@pytest.mark.parametrize('name', FAMILIES)
def test_words_in_any_order(name):
  subtasks = legal(name)
  if not subtasks:
    return
  first, last = subtasks[0], subtasks[-1]
  assert get(name) == get(name, first)
  assert get(name, f'{last},small') == get(name, f'small,{last}')


def test_fields_of_the_attention():
  config = get('wmt14_collab', 'shared_dim=48,small,bias=none')
  assert config.model.attention.shared_dim == 48
  assert config.model.attention.bias == 'none'
  assert config.model.dim == get('wmt14', 'small').model.dim
  config = get('glue_collab', 'shared_dim=8/9/7,rte,small')
  assert config.model.attention.shared_dim == (8, 9, 7)


def test_optional_fields():
  config = get('lm_mhe_mul', 'sample,qkv_features=96,embedding_std=1')
  assert config.model.attention.qkv_features == 96
  assert config.model.attention.embedding_std == 1.0


@pytest.mark.parametrize('name', [x for x in NAMES if x.startswith('lm')])
def test_argument_lists_the_fields_that_an_attention_takes(name):
  """Each that is listed is one, and no other is listed."""
  with pytest.raises(ValueError, match='heads=8; ') as error:
    get(name, 'heads=8')
  listed = str(error.value).split(' has ')[2].rstrip('.').split(', ')
  config = get(name, 'sample')
  values = configs.OPTIONAL | config.model.attention.to_dict()
  for key in listed:
    got = get(name, f'sample,{key}={values[key]}').model.attention
    attention.build(**got)
  others = configs.OPTIONAL.keys() - set(listed)
  assert others == {'embedding_std'} - set(listed)
  for key in others:
    with pytest.raises(ValueError, match=f'{key}=1; '):
      get(name, f'{key}=1')


def test_optional_fields_are_in_a_config_only_if_given():
  """So that a run's hash does not change with what did not change it."""
  assert 'flash' not in get('lm_mha').model.attention
  attention = get('lm_mha', 'flash=False,sample').model.attention
  assert attention.flash is False
  assert get('lm_mha', 'flash=True').model.attention.flash is True


@pytest.mark.parametrize(
  'argument, words',
  [
    ('sampel', "'sampel'; there are sample, small, KEY=VALUE"),
    ('small,sample', 'two of a size: small and sample'),
    ('key=3', 'key=3; collab has num_heads, shared_dim, bias, mixing_init'),
    ('shared_dim=x', 'shared_dim=x, expected int'),
    ('flash=0', 'flash=0, expected bool'),
    ('name=mha', 'name=mha; collab has'),
  ],
)
def test_argument_errors(argument, words):
  with pytest.raises(ValueError, match=words):
    get('wmt14_collab', argument)


def test_two_subtasks():
  with pytest.raises(ValueError, match='two of a sub-task: sst2 and mrpc'):
    get('glue', 'sst2,mrpc')


# The hash ---------------------------------------------------------------------


@pytest.mark.parametrize('name', FAMILIES)
def test_hash_changes_with_any_value(name):
  config = get(name)
  hashes = {workdir.config_hash(config)}
  leaves = flat(config)
  assert 'model.attention.num_heads' in leaves
  other = {str: 'other', tuple: ('other',), bool: None, int: 7, float: 0.77}
  for key, value in leaves.items():
    changed = get(name)
    new = not value if isinstance(value, bool) else other[type(value)]
    changed.update_from_flattened_dict({key: new})
    hashes.add(workdir.config_hash(changed))
  assert len(hashes) == 1 + len(leaves)
  assert workdir.config_hash(get(name)) in hashes


def test_hash_is_kept(tmp_path):
  """A run that goes on has the hash that it began with."""
  config = get('wmt14_mhe_mul', 'sample').lock()
  with config.unlocked():
    config.data.files = ('train=a,b', 'test=c')
  workdir.claim(config, tmp_path)
  again = workdir.claim(None, tmp_path)
  assert again == config
  assert workdir.config_hash(again) == workdir.config_hash(config)
