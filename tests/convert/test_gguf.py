# SPDX-License-Identifier: Apache-2.0
"""GGUF files: the same model as the checkpoint that they were made from."""

import importlib.util

from flax.core import freeze
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
import tokenizers

from collab import models
from collab.attention.rope import Rope
from collab.convert import __main__ as command
from collab.convert.huggingface import checkpoints, plans
from collab.data import tokenizer
from tests.convert.checkpoints import read
from tests.models import small

H, G, D, F, L = 4, 2, 64, 96, 29
TOKENS = ['<|endoftext|>', '<tool>', *'abcdĠ12', 'ab', 'abc', 'Ġabc']
MERGES = ['a b', 'ab c', 'Ġ abc']
CONFIG = dict(
  vocab_size=len(TOKENS),
  hidden_size=D,
  num_hidden_layers=2,
  num_attention_heads=H,
  num_key_value_heads=G,
  intermediate_size=F,
  max_position_embeddings=L,
  rms_norm_eps=1e-6,
  head_dim=D // H,
  rope_parameters=dict(rope_theta=5e5),
)
# Modules of Transformers and their names in GGUF, as in llama.cpp's converter.
NAMES = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
  'model.layers.': 'blk.',
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'post_attention_layernorm': 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}


@pytest.fixture
def gguf():
  return pytest.importorskip('gguf', reason='needs the [convert] extra')


def make(folder, kind='llama', **config):
  """Writes a checkpoint of Transformers with random numbers; its tensors."""
  config = CONFIG | dict(model_type=kind) | config
  config |= dict(architectures=[f'{kind.capitalize()}ForCausalLM'])
  plan = plans.make(config, pooler=False)
  model = models.build(**freeze(plan.model))
  params = small.parameters(model, dict(tokens=np.zeros((1, 1), np.int32)))
  found = checkpoints.Pretrained(plan.model, params, config, '', {})
  checkpoints.save(folder, found)
  return read(folder)


def interleaved(x, heads):
  """What llama.cpp's converter does to rows of queries and keys of Llama."""
  planes = x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:])
  return planes.swapaxes(1, 2).reshape(x.shape)


def write(gguf, path, tensors, kind='llama', change=None, **types):
  """Writes a GGUF file, and returns the tensors that are in it.

  Args:
    gguf: the package.
    path: of the file.
    tensors: of the checkpoint.
    kind: general.architecture.
    change: called with the writer before it writes.
    **types: of the numbers of modules, 'F32' of the others.
  """
  w = gguf.GGUFWriter(path, kind)
  w.add_block_count(2)
  w.add_context_length(L)
  w.add_embedding_length(D)
  w.add_feed_forward_length(F)
  w.add_head_count(H)
  w.add_head_count_kv(G)
  w.add_layer_norm_rms_eps(1e-6)
  w.add_rope_freq_base(5e5)
  w.add_tokenizer_model('gpt2')
  w.add_tokenizer_pre('smollm')
  w.add_token_list(TOKENS)
  w.add_token_types([3, 4] + [1] * (len(TOKENS) - 2))
  w.add_token_merges(MERGES)
  w.add_eos_token_id(0)
  if change:
    change(w)
  stored = {}
  for name, x in tensors.items():
    theirs = name
    for old, new in NAMES.items():
      theirs = theirs.replace(old, new)
    module = theirs.split('.')[-2]
    number = gguf.GGMLQuantizationType[types.get(module, 'F32')]
    packed = gguf.quantize(x, number)
    stored[name] = gguf.dequantize(packed, number)
    if kind == 'llama' and module in ('attn_q', 'attn_k'):
      packed = interleaved(packed, H if module == 'attn_q' else G)
    w.add_tensor(theirs, packed, raw_dtype=number)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return stored


def same(got, want):
  assert got.model == want.model
  jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


@pytest.mark.parametrize(
  'kind, config, types',
  [
    ('llama', dict(tie_word_embeddings=True), dict(attn_q='F16')),
    ('llama', {}, dict(token_embd='Q8_0', attn_k='Q8_0', ffn_up='Q4_1')),
    ('qwen2', {}, {}),
    ('qwen3', {}, dict(output='BF16')),
  ],
)
def test_the_same_model_as_the_checkpoints(gguf, kind, config, types, tmp_path):
  tensors = make(tmp_path / 'old', kind, **config)
  stored = write(gguf, tmp_path / 'a.gguf', tensors, kind, **types)
  save_file(stored, tmp_path / 'old' / 'model.safetensors')
  got, want = (checkpoints.load(tmp_path / x) for x in ('a.gguf', 'old'))
  same(got, want)


def test_a_file_becomes_a_workdir_and_a_checkpoint(gguf, tmp_path):
  write(gguf, tmp_path / 'a.gguf', make(tmp_path / 'old'))
  words = [str(tmp_path / x) for x in ('a.gguf', 'out', 'back')]
  command.main(words[:2])
  command.main([*words[1:], '--to=huggingface'])
  got, want = (checkpoints.load(tmp_path / x) for x in ('back', 'old'))
  same(got, want)
  words = tokenizer.load(tmp_path / 'out' / 'tokenizer.json')
  assert words.decode([0, *words.encode(' abc1')]) == ' abc1'


def setting(name, value):
  """Changes a field of the metadata, or adds it."""

  def change(w):
    (fields,) = w.kv_data
    if name in fields:
      fields[name].value = value
    else:
      (w.add_string if isinstance(value, str) else w.add_uint32)(name, value)

  return change


@pytest.mark.parametrize(
  'pre, text, tokens',
  [
    ('smollm', ' abc12', ['Ġabc', '1', '2']),
    ('gpt-2', 'abcabc', ['abc', 'abc']),
    ('qwen2', 'ab<tool>abc', ['ab', '<tool>', 'abc']),
    ('llama-bpe', 'd abc', ['d', 'Ġabc']),
  ],
)
def test_tokenizers(gguf, pre, text, tokens, tmp_path):
  path, change = tmp_path / 'a.gguf', setting('tokenizer.ggml.pre', pre)
  write(gguf, path, make(tmp_path / 'old'), change=change)
  rules = tokenizers.Tokenizer.from_str(checkpoints.load(path).tokenizer)
  assert rules.encode(text).tokens == tokens
  assert rules.decode(rules.encode(text).ids) == text


@pytest.mark.parametrize('legal', [True, False])
def test_the_factors_of_llama3(gguf, legal, tmp_path):
  """A file has no name of this scaling, only what the rates are divided by."""
  scaling = dict(rope_type='llama3', factor=32.0, low_freq_factor=1.0)
  scaling |= dict(high_freq_factor=4.0, original_max_position_embeddings=8192)
  plain, _ = Rope(5e5).rates(D // H)
  scaled, _ = Rope(5e5, scaling=scaling).rates(D // H)
  factors = (plain / scaled).astype(np.float32)
  if not legal:
    factors[1] = 2
  path, name = tmp_path / 'a.gguf', 'rope_freqs.weight'
  add = lambda w: w.add_tensor(name, factors)
  write(gguf, path, make(tmp_path / 'old'), change=add)
  if legal:
    found = checkpoints.load(path).model['attention']['rope']
    assert found == dict(base=5e5, scaling=scaling)
  else:
    with pytest.raises(ValueError, match=f'{name} is not what rope_type=llama'):
      checkpoints.load(path)


@pytest.mark.parametrize(
  'change, words',
  [
    (
      setting('general.architecture', 'bert'),
      "general.architecture='bert'; there are llama, qwen2, qwen3",
    ),
    (setting('llama.expert_count', 8), 'llama.expert_count is unknown'),
    (
      setting('llama.rope.dimension_count', 8),
      'llama.rope.dimension_count is 8, expected 16',
    ),
    (
      setting('llama.rope.scaling.type', 'longrope'),
      "rope_type='longrope'; expected one of",
    ),
    (
      setting('tokenizer.ggml.model', 'llama'),
      "tokenizer.ggml.model='llama'; there are gpt2",
    ),
    (
      setting('tokenizer.ggml.pre', 'poro'),
      "tokenizer.ggml.pre='poro'; there are gpt-2, smollm",
    ),
    (
      setting('llama.attention.head_count', 3),
      '64 rows of queries or keys for 3 heads',
    ),
    (setting('llama.block_count', 3), r'missing: model\.layers\.2'),
  ],
)
def test_files_that_we_have_no_model_for(gguf, change, words, tmp_path):
  path = tmp_path / 'a.gguf'
  write(gguf, path, make(tmp_path / 'old'), change=change)
  with pytest.raises(ValueError, match=words) as info:
    checkpoints.load(path)
  assert str(info.value).startswith(str(path))
  assert '\n' not in str(info.value)


def test_a_damaged_file(gguf, tmp_path):
  path, copy = tmp_path / 'a.gguf', tmp_path / 'b.gguf'
  write(gguf, path, make(tmp_path / 'old'))
  for size in (0, 3, 99, path.stat().st_size - 9):
    copy.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r'b\.gguf cannot be read'):
      checkpoints.load(copy)


def test_without_the_package(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'collab\[convert\]'"):
    checkpoints.load(tmp_path / 'a.gguf')
