# SPDX-License-Identifier: Apache-2.0
"""What is no checkpoint of ours is refused in one line; so is writing one."""

import json
import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest

from collab.convert.huggingface import checkpoints
from tests.convert.checkpoints import (
  EMBED,
  GOLDEN,
  identical,
  load,
  read,
  refuses,
  renamed,
  variant,
  waves,
)

# Bad input --------------------------------------------------------------------


def without(*names):
  return lambda x: {k: v for k, v in x.items() if k not in names}


@pytest.mark.parametrize(
  'case, config, words',
  [
    (
      'bert_Model',
      dict(model_type='t5'),
      "model_type='t5'; there are bert, .*marian",
    ),
    (
      'bert_Model',
      dict(model_type=['bert']),
      r"model_type=\['bert'\]; there are",
    ),
    (
      'bert_Model',
      dict(architectures=['BertForNextSentencePrediction']),
      "'BertForNextSentencePrediction'; there are BertModel, .*BertForQuestion",
    ),
    (
      'bert_Model',
      dict(architectures='BertModel'),
      "architectures is 'BertModel', expected list",
    ),
    (
      'bert_Model',
      dict(position_embedding_type='relative_key'),
      "position_embedding_type is 'relative_key', expected 'absolute'",
    ),
    ('bert_Model', dict(is_decoder=True), 'is_decoder is True, expected False'),
    (
      'bert_Model',
      dict(hidden_act='elu'),
      "hidden_act='elu'; there are gelu, .*quick_gelu, .*tanh",
    ),
    (
      'distilbert_Model',
      dict(activation='elu'),
      "activation='elu'; there are gelu",
    ),
    (
      'gpt2_Model',
      dict(activation_function='elu'),
      "activation_function='elu'; there are gelu",
    ),
    ('bert_Model', dict(hidden_act=3), 'hidden_act is 3, expected str'),
    ('bert_Model', dict(hidden_size=None), 'hidden_size is missing'),
    ('bert_Model', dict(hidden_size='12'), "hidden_size is '12', expected int"),
    (
      'bert_Model',
      dict(num_hidden_layers=True),
      'num_hidden_layers is True, expected int',
    ),
    (
      'bert_Model',
      dict(num_hidden_layers=0),
      'num_hidden_layers is 0, expected at least 1, below 1001',
    ),
    (
      'bert_Model',
      dict(layer_norm_eps=float('nan')),
      'layer_norm_eps is nan, expected at least 0',
    ),
    (
      'gpt2_Model',
      dict(layer_norm_epsilon=10**400),
      'layer_norm_epsilon is 10+, expected at least 0',
    ),
    (
      'bert_Model',
      dict(num_hidden_layers=10**9),
      'num_hidden_layers is 1000000000, expected at least 1, below 1001',
    ),
    (
      'bert_Model',
      dict(num_attention_heads=5),
      'num_attention_heads is 5, expected a divisor of 12',
    ),
    (
      'distilbert_Model',
      dict(n_heads=5),
      'n_heads is 5, expected a divisor of 12',
    ),
    (
      'marian_Model',
      dict(decoder_attention_heads=5),
      'decoder_attention_heads is 5, expected a divisor of 12',
    ),
    (
      'bert_Model',
      dict(hidden_dropout_prob=1.5),
      'hidden_dropout_prob is 1.5, expected at least 0, below 1',
    ),
    (
      'distilbert_Model',
      dict(attention_dropout=-1),
      'attention_dropout is -1, expected at least 0, below 1',
    ),
    (
      'bert_ForSequenceClassification',
      dict(id2label=[]),
      r'id2label is \[\], expected dict',
    ),
    (
      'albert_Model',
      dict(num_hidden_groups=3),
      'num_hidden_groups is 3, expected at least 1, below 3',
    ),
    (
      'albert_Model',
      dict(inner_group_num=0),
      'inner_group_num is 0, expected at least 1',
    ),
    (
      'roberta_Model',
      dict(hidden_act='relu'),
      "hidden_act is 'relu', expected 'gelu'",
    ),
    (
      'gpt2_Model',
      dict(scale_attn_by_inverse_layer_idx=True),
      'inverse_layer_idx is True, expected False',
    ),
    (
      'gpt2_Model',
      dict(scale_attn_weights=False),
      'scale_attn_weights is False, expected True',
    ),
    ('vit_Model', dict(qkv_bias=False), 'qkv_bias is False, expected True'),
    (
      'vit_Model',
      dict(image_size=[9, 9]),
      r'image_size is \[9, 9\], expected int',
    ),
    (
      'vit_Model',
      dict(patch_size=4),
      'patch_size is 4, expected a divisor of 9',
    ),
    (
      'marian_Model',
      dict(scale_embedding=1),
      'scale_embedding is 1, expected bool',
    ),
    (
      'marian_Model',
      dict(tie_word_embeddings=False),
      'tie_word_embeddings is False, expected True where share_encoder_decoder',
    ),
    (
      'marian_Model',
      dict(normalize_before=True),
      'normalize_before is True, expected False',
    ),
  ],
)
def test_configs_that_we_have_no_model_for(case, config, words, tmp_path):
  refuses(tmp_path / 'old', case, config, words)


@pytest.mark.parametrize('case', ['bert_Model', 'gpt2_Model'])
def test_a_config_of_a_size_that_fits_nowhere(case, tmp_path):
  """It is refused before memory of its size is asked for."""
  field = dict(bert_Model='hidden_size', gpt2_Model='n_embd')[case]
  folder = variant(tmp_path / 'old', case, **{field: 12 * 10**7})
  with pytest.raises(ValueError, match=r'has shape .*, expected .* numbers'):
    checkpoints.load(folder)


@pytest.mark.parametrize('size', [2**31, 10**18, 10**30])
@pytest.mark.parametrize(
  'case, field',
  [
    ('bert_Model', 'vocab_size'),
    ('bert_Model', 'max_position_embeddings'),
    ('bert_Model', 'type_vocab_size'),
    ('albert_Model', 'embedding_size'),
    ('gpt2_Model', 'vocab_size'),
    ('marian_Model', 'vocab_size'),
    ('vit_Model', 'image_size'),
  ],
)
def test_sizes_beyond_what_indices_reach(case, field, size, tmp_path):
  folder = variant(tmp_path / 'old', case, **{field: size})
  with pytest.raises(ValueError, match=f'{field} is {size}, .*, below {2**31}'):
    checkpoints.load(folder)


def test_an_epsilon_may_be_an_integer(tmp_path):
  """JAX takes no integer of more than 31 bits, but it takes the float."""
  folder = variant(tmp_path / 'old', 'gpt2_Model', layer_norm_epsilon=2**31)
  found = checkpoints.load(folder)
  assert found.model['epsilon'] == 2.0**31


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize('dtype', ['float32', 'float16', ml_dtypes.bfloat16])
@pytest.mark.parametrize(
  'name', ['embeddings.word_embeddings.weight', 'pooler.dense.bias']
)
def test_numbers_that_are_not_finite(name, dtype, value, tmp_path):
  """Of any parameter, not only of attention."""

  def one_bad(x):
    x = x.astype(dtype)
    x.flat[3] = value
    return x

  folder = variant(tmp_path / 'old', 'bert_Model', changed(name, one_bad))
  with pytest.raises(ValueError, match=f'{name} is not finite'):
    checkpoints.load(folder)


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(id2label={'0': 'a', '2': 'b'}), 'expected a name for each of 0, 1'),
    (dict(id2label={}, label2id=dict(a=[0], b={})), 'expected a name for each'),
    (dict(id2label={'0': 'a', '1': 3}), 'expected a name for each of 0, 1'),
    (dict(id2label={'x': 'a'}), r"id2label is \{'x': 'a'\}, expected a name"),
    (
      dict(
        id2label={'0': 'a', '1': 'b', '2': 'c'},
        label2id=dict(a=0, c=1, b=2),
      ),
      'id2label has a, b, c, label2id a, c, b',
    ),
    (
      dict(id2label={}, label2id=dict(a=0, b=0, c=1)),
      'label2id is .*, expected a name for each',
    ),
  ],
)
def test_labels_that_say_nothing_or_two_things(config, words, tmp_path):
  case = 'bert_ForSequenceClassification'
  refuses(tmp_path / 'old', case, config, words)


@pytest.mark.parametrize(
  'config, want',
  [
    (dict(id2label={'2': 'c', '0': 'a', '1': 'b'}), ('a', 'b', 'c')),
    (dict(label2id=dict(b=1, c=2, a=0)), ('a', 'b', 'c')),  # id2label: LABEL_0
    (dict(id2label=None, label2id=dict(b=1, c=2, a=0)), ('a', 'b', 'c')),
    ({}, ('LABEL_0', 'LABEL_1', 'LABEL_2')),
    (dict(id2label=None, label2id=None, num_labels=3), ()),
    (dict(label2id=dict(a=0, b=1)), ('LABEL_0', 'LABEL_1', 'LABEL_2')),
  ],
)
def test_labels_in_the_order_of_their_ids(config, want, tmp_path):
  case = 'bert_ForSequenceClassification'
  found = checkpoints.load(variant(tmp_path / 'old', case, **config))
  assert found.model['outputs'] == 3
  assert checkpoints.meaning(found).classes == want


def changed(name, change):
  return lambda tensors: tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
  'case, change, words',
  [
    (
      'bert_Model',
      changed('pooler.dense.weight', lambda x: x[:, 1:]),
      r'pooler.dense.weight has shape \(12, 11\), expected \(12, 12\)',
    ),
    (
      'gpt2_Model',
      changed('h.0.attn.c_attn.weight', lambda x: x.T.copy()),
      r'c_attn.weight has shape \(36, 12\), expected \(12, 36\)',
    ),
    (
      'vit_Model',
      changed('embeddings.position_embeddings', lambda x: x[0]),
      r'position_embeddings has shape \(10, 12\), expected \(1, 10, 12\)',
    ),
    (
      'bert_Model',
      changed('pooler.dense.weight', lambda x: x.astype(np.float64)),
      'pooler.dense.weight is float64, expected float32, float16 or bfloat16',
    ),
    (
      'bert_Model',
      without('encoder.layer.1.output.dense.bias'),
      'BertModel, missing: encoder.layer.1.output.dense.bias',
    ),
    (
      'bert_ForMaskedLM',
      without('bert.embeddings.LayerNorm.bias'),
      'missing: bert.embeddings.LayerNorm.bias',
    ),
    (
      'bert_Model',
      renamed(r'layer\.1\.', 'layer.2.'),
      r'missing: encoder\.layer\.1\..*; unexpected: encoder\.layer\.2\.',
    ),
    (
      'bert_Model',
      lambda x: x | {'bert.pooler.dense.bias': x['pooler.dense.bias']},
      'bert.pooler.dense.bias and pooler.dense.bias are the same',
    ),
    (
      'gpt2_LMHeadModel',
      lambda x: x | {'lm_head.weight': x['transformer.wte.weight'] + 1},
      'lm_head.weight is not transformer.wte.weight',
    ),
    (
      'marian_Model',
      lambda x: x | {'decoder.embed_positions.weight': waves(13, 12) + 0.01},
      r'decoder.embed_positions.weight is not the table of sinusoids',
    ),
    (
      'marian_Model',
      lambda x: x | {'decoder.embed_positions.weight': waves(7, 12)},
      r'sinusoids \[13, 12\]',
    ),
  ],
)
def test_tensors_that_do_not_fit(case, change, words, tmp_path):
  folder = variant(tmp_path / 'old', case, change)
  with pytest.raises(ValueError, match=words) as info:
    checkpoints.load(folder)
  assert str(info.value).startswith(f'{folder}: ')
  assert '\n' not in str(info.value)


SHARDED = 'bert_ForPreTraining'
FIRST = 'model-00001-of-00002.safetensors'
INDEX = 'model.safetensors.index.json'


def index(change):
  """Changes the weight_map in a folder."""

  def edit(folder):
    path = folder / INDEX
    value = json.loads(path.read_text())
    change(value['weight_map'])
    path.write_text(json.dumps(value))

  return edit


def point_to(shard):
  return index(lambda shards: shards.update({EMBED: shard}))


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda f: (f / FIRST).unlink(), f'{FIRST} is missing; {INDEX} lists it'),
    (lambda f: (f / FIRST).write_bytes(b'x' * 99), f'{FIRST} cannot be read'),
    (
      lambda f: (f / FIRST).write_bytes((f / FIRST).read_bytes()[:-1]),
      f'{FIRST} cannot be read',
    ),
    (
      point_to('../x.safetensors'),
      r"lists '../x.safetensors', expected the name of a file beside it",
    ),
    (point_to('/x.safetensors'), 'expected the name of a file'),
    (point_to('a\\x.safetensors'), 'expected the name of a file'),
    (point_to('..'), 'expected the name of a file'),
    (point_to('.x'), 'expected the name of a file'),
    (point_to(''), 'expected the name of a file'),
    (point_to(3), 'expected the name of a file'),
    (point_to(['x']), 'expected the name of a file'),
    (
      point_to('model-00002-of-00002.safetensors'),
      f'{FIRST} does not hold what {INDEX} says: {EMBED}',
    ),
    (
      index(lambda shards: shards.update(more=FIRST)),
      'does not hold what .* says: more',
    ),
    (index(lambda shards: shards.pop(EMBED)), f'says: {EMBED}'),
    (index(dict.clear), 'has no weight_map'),
    (lambda f: (f / INDEX).write_text('{'), f'{INDEX} is no JSON'),
    (lambda f: (f / INDEX).write_text('[' * 10**5), 'is no JSON: Nested too'),
    (lambda f: (f / INDEX).unlink(), 'has neither model.safetensors nor'),
    (
      lambda f: (f / 'config.json').write_text('[]'),
      r'config.json holds a list, expected \{...\}',
    ),
    (
      lambda f: (f / 'config.json').write_bytes(b'\xff'),
      'config.json is no JSON',
    ),
    (lambda f: (f / 'config.json').unlink(), 'config.json: No such file'),
  ],
)
def test_damaged_folders(damage, words, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(GOLDEN / SHARDED, folder)
  damage(folder)
  with pytest.raises(ValueError, match=words) as info:
    checkpoints.load(folder)
  assert str(folder) in str(info.value)
  assert '\n' not in str(info.value)


def test_pickles_are_not_read(tmp_path):
  """But it is said what to do with them."""
  folder = variant(tmp_path / 'old', 'bert_Model')
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  with pytest.raises(ValueError, match=r'_model\.bin, .*save_pretrained'):
    checkpoints.load(folder)


@pytest.mark.parametrize('name', ["it's", 'a "b" c', '$(touch x)', 'a;touch x'])
def test_the_hint_for_pickles_is_a_line_for_the_shell(name, tmp_path):
  """It loads the folder of that name, and does nothing else."""
  folder = tmp_path / name
  folder.mkdir()
  (folder / 'pytorch_model.bin').touch()
  (folder / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='may run any code') as info:
    checkpoints.load(folder)
  _, _, line = str(info.value).partition('installed: ')
  line, _, _ = line.partition(', with the class that')
  fake = 'python() { printf "%s\n" "$@"; }'
  done = subprocess.run(
    ['sh', '-c', f'{fake}; {line}'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  option, code, *arguments = done.stdout.splitlines()
  assert option == '-c'
  compile(code, 'hint', 'exec')
  assert arguments == [str(folder), 'NEW']
  assert {path.name for path in tmp_path.iterdir()} == {name}


# Writing ----------------------------------------------------------------------


def test_no_folder_is_written_over(tmp_path):
  with pytest.raises(ValueError, match=r'exists; expected .* a new folder'):
    checkpoints.save(tmp_path, load('bert_Model'))
  assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
  def fail(*args):
    raise OSError('no space left')

  monkeypatch.setattr('safetensors.numpy.save_file', fail)
  with pytest.raises(OSError, match='no space'):
    checkpoints.save(tmp_path / 'new', load('bert_Model'))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'case, fields, words',
  [
    (
      'bert_Model',
      dict(attention=dict(name='collab', num_heads=3, shared_dim=6)),
      r'parameters: .*/mixing: expected float32\[3, 6\], found none',
    ),
    ('bert_Model', dict(activation='gelu'), "'gelu', by the config 'relu'"),
    ('bert_Model', dict(num_layers=1), 'num_layers is 1, by the config 2'),
  ],
)
def test_models_that_transformers_has_not(case, fields, words, tmp_path):
  pretrained = load(case)
  other = pretrained._replace(model=pretrained.model | fields)
  with pytest.raises(ValueError, match=words):
    checkpoints.save(tmp_path / 'new', other)
  assert not list(tmp_path.iterdir())


def test_parameters_that_are_not_the_models(tmp_path):
  pretrained = load('bert_Model')
  params = pretrained.params | dict(pooler=dict(bias=np.zeros(5, np.float32)))
  words = (
    r'pooler/bias: expected float32\[12\], found float32\[5\]; pooler/kern'
  )
  with pytest.raises(ValueError, match=words):
    checkpoints.save(tmp_path / 'new', pretrained._replace(params=params))


def test_training_may_differ(tmp_path):
  """Dropout, scan and the like; attention may name its defaults."""
  pretrained = load('bert_Model')
  attention = pretrained.model['attention'] | dict(key_features=0)
  fields = dict(dropout=0.3, scan=True, dtype='bfloat16', attention=attention)
  model = pretrained.model | fields
  checkpoints.save(tmp_path / 'new', pretrained._replace(model=model))
  identical(read(tmp_path / 'new'), read(GOLDEN / 'bert_Model'))


def test_fields_that_older_files_lack(tmp_path):
  """They have the model's defaults, and have to be those of the config."""
  pretrained = load('marian_MTModel')
  new = 'tied', 'scaled', 'source_vocab_size', 'decoder_mlp_dim'
  model = {k: x for k, x in pretrained.model.items() if k not in new}
  checkpoints.save(tmp_path / 'new', pretrained._replace(model=model))
  identical(read(tmp_path / 'new'), read(GOLDEN / 'marian_MTModel'))
  config = pretrained.config | dict(scale_embedding=False)
  with pytest.raises(ValueError, match='scaled is True, by the config False'):
    checkpoints.save(
      tmp_path / 'other', pretrained._replace(model=model, config=config)
    )
