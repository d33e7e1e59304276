# SPDX-License-Identifier: Apache-2.0
"""Every experiment in configs/ can be built, at full size, without data."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from collab import accounting, attention, models
from collab.runtime import identity, plan, workdir
from collab.training import optim
import configs
from tests.few import few

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[!_]*.py'))
FAMILIES = [name for name in NAMES if '_' not in name]
THIN = {
  'glue_reparam': ('glue', 'collab'),
  'vit_mha': ('vit', 'mha'),
  'vit_collab': ('vit', 'collab'),
  'wmt14_mha': ('wmt14', 'mha'),
  'wmt14_collab': ('wmt14', 'collab'),
  'wmt14_mhe_add': ('wmt14', 'mhe_add'),
  'wmt14_mhe_mul': ('wmt14', 'mhe_mul'),
}
SIZES = dict.fromkeys(FAMILIES, ('sample', 'small', 'smoke')) | dict(
  decoder=('sample', 's', 'm', 'l', '124m', '1b', 'smoke')
)
# Words that only this family has.
OTHERS = dict.fromkeys(FAMILIES, ()) | dict(
  decoder=(
    *('swiglu', 'geglu', 'relu2', 'gelu'),
    *('rope', 'learned', 'sinusoidal', 'none'),
    *('bpe', 'bytes', 'own', 'equal'),
  )
)
VARIANTS = tuple(configs.VARIANTS)
DECODE = 'lm', 'wmt14', 'decoder'  # which linformer does not
# All families as they are, and one with another: that a variant is a difference
# in attention alone is a test of its own, of all of both.
BUILT = [(name, 'mha') for name in FAMILIES] + [('wmt14', 'collab')]


def get(name, argument=''):
  return importlib.import_module(f'configs.{name}').get_config(argument)


def legal(name):
  """Sub-tasks and models that an argument may have, from its own error."""
  with pytest.raises(ValueError, match='there are') as info:
    get(name, '?')
  *words, last = str(info.value).split('there are ')[1].split(', ')
  assert last.startswith('KEY=VALUE')
  others = SIZES[name] + VARIANTS + OTHERS[name]
  assert tuple(words[-len(others) :]) == others
  return words[: -len(others)]


def arguments(name):
  """Every sub-task or model at every size; each size if there are none."""
  for subtask in legal(name) or ['']:
    for size in ('', *SIZES[name]):
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
    side = config.data.image_size
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


HEADS = dict(mlm='mlm', squad='span') | dict.fromkeys(
  ('classify', 'glue', 'superglue'), 'classify'
)


def test_there_are_configs():
  assert set(FAMILIES) >= {
    'wmt14', 'glue', 'superglue', 'squad', 'mlm', 'lm', 'vit'
  }  # fmt: skip
  assert set(NAMES) == {*FAMILIES, *THIN}
  assert set(VARIANTS) == set(attention.names())


@few(
  [
    (name, x)
    for name in FAMILIES
    for x in VARIANTS
    if x != 'linformer' or name not in DECODE
  ],
  BUILT,
  'name, variant',
)
def test_builds(name, variant):
  """Parameters and optimiser state at full size, without making them."""
  sizes = {}
  for argument in arguments(name):
    config = get(name, f'{argument},{variant}').lock()
    model, batch = built(config)
    tx, schedule = optim.build(total_steps=config.total_steps, **config.optim)
    if config.model.name == 'vit':
      batch = dict(images=batch)
    key = repr((model, batch, config.optim.name))
    if key not in sizes:

      def init(batch, model=model, tx=tx):
        params = model.init(jax.random.key(0), batch)['params']
        return params, tx.init(params)

      sizes[key] = accounting.size(jax.eval_shape(init, batch)[0])
    assert 0 < accounting.attention_parameters(model) < sizes[key]
    peak = float(schedule(max(config.optim.warmup_steps, 1) - 1))
    assert peak == pytest.approx(config.optim.lr, rel=0.01)
    # What a run would only find out at its end.
    plan.check(config)
    assert config.every.eval % config.every.checkpoint == 0


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('name', FAMILIES)
def test_a_variant_is_a_difference_in_attention(name, variant):
  for argument in ('', *SIZES[name]):
    config, base = get(name, f'{variant},{argument}'), get(name, argument)
    assert config == get(name, f'{argument},{variant}')
    assert config.model.attention.name == variant
    assert base.model.attention.name == 'mha'
    assert config.model.attention.num_heads == base.model.attention.num_heads
    config.model.attention = base.model.attention = {}
    assert config == base


@pytest.mark.parametrize('name', THIN)
def test_a_thin_file_gives_words(name):
  family, words = THIN[name]
  assert get(name) == get(family, words)
  assert get(name, 'small,num_heads=2') == get(
    family, f'{words},small,num_heads=2'
  )


@pytest.mark.parametrize('name', FAMILIES)
def test_smoke_is_a_short_sample(name):
  config, sample = get(name, 'smoke,gqa'), get(name, 'sample,gqa')
  assert config.total_steps == 20
  shares = [c.optim.warmup_steps / c.total_steps for c in (config, sample)]
  assert shares[0] == pytest.approx(shares[1], abs=0.05)
  changed = {k for k, x in flat(config).items() if x != flat(sample)[k]}
  every = {f'every.{x}' for x in sample.every}
  assert changed - {'task.beam'} <= {
    'total_steps', 'optim.warmup_steps', *every
  }  # fmt: skip


def test_default_fields_of_variants():
  fields, base = {}, get('lm', 'small')
  for name in VARIANTS:
    found = get('lm', f'small,{name}').model.attention.to_dict()
    assert (found.pop('name'), found.pop('num_heads')) == (name, 6)
    fields[name] = found
  collab = dict(shared_dim=96, bias='content', mixing_init='normal')
  assert fields == {name: {} for name in VARIANTS} | dict(
    mha=dict(key_features=0),
    collab=collab,
    gqa=dict(kv_heads=2),
    mhe_mul=dict(offset=1.0),
    mla=dict(latent_dim=48),
    gla=dict(latent_dim=48, kv_heads=2),
    gta=dict(kv_heads=2),
    mfa=dict(query_dim=64, head_width=64),
    mfa_kr=dict(query_dim=64, head_width=64),
    tpa=dict(rank=2),
    linformer=dict(length=base.data.row_length, projected_length=64),
  )
  # The paper's translation model has other biases than its encoders.
  found = get('wmt14', 'small,collab').model.attention.to_dict()
  assert found == dict(collab, name='collab', num_heads=6, bias='shared')


# The modern decoder -----------------------------------------------------------


def weights(argument):
  """The number of parameters without embeddings."""
  model, _ = built(get('decoder', argument))
  params = models.shapes(model)
  return accounting.size(params) - accounting.size(params['embed'])


@pytest.mark.parametrize(
  'size, parameters',
  [('s', 0.49e6), ('m', 1.33e6), ('l', 10.6e6), ('124m', 85e6), ('1b', 1.01e9)],
)
def test_sizes_of_the_decoder(size, parameters):
  assert weights(size) == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize('mlp', ['geglu', 'relu2', 'gelu'])
def test_mlps_have_the_same_parameters(mlp):
  assert weights(f'sample,{mlp}') == weights('sample')


@pytest.mark.parametrize('name', [x for x in VARIANTS if x != 'linformer'])
def test_equal_parameters(name):
  """The MLP gets what an attention saves, whatever the MLP is."""
  for mlp in ('swiglu', 'relu2'):
    want = weights(f'sample,{mlp}')
    assert weights(f'sample,{mlp},{name},equal') == pytest.approx(
      want, rel=0.01
    )


def test_words_of_the_decoder():
  """Each says what its ingredient is."""
  base = get('decoder', 's')
  assert not base.model.attention.qk_norm
  assert not base.task.z_loss
  assert base == get('decoder', 's,swiglu,rope,bpe,own,mha')
  changed = get('decoder', 's,bytes')
  assert (changed.data.vocab_size, changed.data.row_length) == (261, 512)
  assert changed.model.max_length == 1024
  changed = get('decoder', 's,learned,qk_norm=true')
  assert changed.model.positions == 'learned'
  assert changed.model.attention.to_dict() == dict(
    name='mha', num_heads=4, key_features=0, qk_norm=True
  )
  with pytest.raises(ValueError, match='qk_norm=0, expected bool'):
    get('decoder', 'qk_norm=0')
  assert get('decoder', '124m') == get('decoder')
  rates = [get('decoder', size).optim.lr for size in ('m', '124m')]
  assert rates == [3e-3, 1.5e-3]


def test_models_of_glue_differ_in_the_model():
  base = get('glue', 'rte')
  for name in ('distilbert', 'albert', 'minilm'):
    config = get('glue', f'{name},rte')
    assert config.model != base.model
    config.model = base.model
    assert config == base


@pytest.mark.parametrize(
  'name, parameters',
  [
    # facts of the paper: embeddings, layers and pooler, no head
    ('distilbert', 62_897_664),
    ('albert', 11_106_048),
  ],
)
def test_parameters_of_the_paper(name, parameters):
  config = get('glue', f'{name},collab,shared_dim=384')
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
  config = get('glue', 'shared_dim=8/9/7,rte,collab,small')
  assert config.model.attention.shared_dim == (8, 9, 7)


def test_optional_fields():
  config = get('lm', 'sample,mhe_mul,qkv_features=96,embedding_std=1')
  assert config.model.attention.qkv_features == 96
  assert config.model.attention.embedding_std == 1.0
  config = get('decoder', 's,mhe_mul,fold=true')
  assert config.model.attention.fold is True


@pytest.mark.parametrize('name', configs.VARIANTS)
def test_argument_lists_the_fields_that_an_attention_takes(name):
  """Each that is listed is one, and no other is listed."""
  with pytest.raises(ValueError, match='heads=8; ') as error:
    get('lm', f'{name},heads=8')
  listed = str(error.value).split(' has ')[2].rstrip('.').split(', ')
  config = get('lm', f'{name},sample')
  values = configs.OPTIONAL | config.model.attention.to_dict()
  for key in listed:
    value = str(values[key]).lower()  # true, false
    got = get('lm', f'{name},sample,{key}={value}').model.attention
    attention.build(**got)
  others = configs.OPTIONAL.keys() - set(listed)
  own = {'embedding_std', 'kv_heads', 'fold', 'mixing', 'spectrum'}
  assert others == own - set(listed)
  for key in others:
    with pytest.raises(ValueError, match=f'{key}=1; '):
      get('lm', f'{name},{key}=1')


def test_optional_fields_are_in_a_config_only_if_given():
  """So that a run's hash does not change with what did not change it."""
  assert 'implementation' not in get('lm').model.attention
  attention = get('lm', 'implementation=xla,sample').model.attention
  assert attention.implementation == 'xla'


@pytest.mark.parametrize(
  'argument, words',
  [
    (
      'sampel',
      "'sampel'; there are sample, small, smoke, collab, .*skv, tpa, KEY=VALUE",
    ),
    ('small,sample', 'two of a size: small and sample'),
    ('mqa', 'two of a variant: collab and mqa'),
    ('num_heads=8,num_heads=4', 'two of num_heads'),
    ('key=3', 'key=3; collab has num_heads, shared_dim, bias, mixing_init'),
    ('shared_dim=x', 'shared_dim=x, expected int'),
    ('name=mha', 'name=mha; collab has'),
  ],
)
def test_argument_errors(argument, words):
  with pytest.raises(ValueError, match=words):
    get('wmt14_collab', argument)


@pytest.mark.parametrize(
  'argument, words',
  [
    ('sst2,mrpc', 'two of a sub-task: sst2 and mrpc'),
    ('albert,bert', 'two of a model: albert and bert'),
    ('BERT', "'BERT'; there are mnli, .*wnli, bert, .*minilm, sample, small, "),
  ],
)
def test_argument_errors_of_glue(argument, words):
  with pytest.raises(ValueError, match=words):
    get('glue', argument)


# The hash ---------------------------------------------------------------------


@pytest.mark.parametrize('name', FAMILIES)
def test_hash_changes_with_any_value(name):
  config = get(name)
  hashes = {identity.config_hash(config)}
  leaves = flat(config)
  assert 'model.attention.num_heads' in leaves
  other = {str: 'other', tuple: ('other',), bool: None, int: 7, float: 0.77}
  for key, value in leaves.items():
    changed = get(name)
    new = not value if isinstance(value, bool) else other[type(value)]
    changed.update_from_flattened_dict({key: new})
    hashes.add(identity.config_hash(changed))
  assert len(hashes) == 1 + len(leaves)
  assert identity.config_hash(get(name)) in hashes


def test_hash_is_kept(tmp_path):
  """A run that goes on has the hash that it began with."""
  config = get('wmt14_mhe_mul', 'sample').lock()
  with config.unlocked():
    config.data.files = ('train=a,b', 'test=c')
  workdir.claim(config, tmp_path)
  again = workdir.claim(None, tmp_path)
  assert again == config
  assert identity.config_hash(again) == identity.config_hash(config)
