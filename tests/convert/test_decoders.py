# SPDX-License-Identifier: Apache-2.0
"""Decoders in Llama's form: what their configs may say, and what they mean."""

import json
import pathlib

from flax.core import freeze
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from collab import decoding, models
from collab.convert.huggingface import checkpoints
from tests.convert.checkpoints import (
  GOLDEN,
  identical,
  load,
  read,
  refuses,
  renamed,
  variant,
)
from tests.convert.test_huggingface import batch_of, io
from tests.models import small

ROPE = pathlib.Path(__file__).parent / 'rope'
WHOLE, NEAR = 'full_attention', 'sliding_attention'


# What it computes -------------------------------------------------------------


def test_there_are_cases():
  assert {path.stem for path in ROPE.iterdir()} == {'linear', 'llama3', 'yarn'}


@pytest.mark.parametrize('case', ['linear', 'llama3', 'yarn'])
def test_scaled_positions_are_those_of_transformers(case, tmp_path):
  with safe_open(ROPE / f'{case}.safetensors', 'numpy') as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = json.loads(file.metadata()['config'])
  tokens, logits = tensors.pop('tokens'), tensors.pop('logits')
  config |= dict(model_type='llama', architectures=['LlamaForCausalLM'])
  (tmp_path / 'config.json').write_text(json.dumps(config))
  save_file(tensors, tmp_path / 'model.safetensors')
  found = checkpoints.load(tmp_path)
  model, batch = build(found.model), dict(tokens=tokens.astype(np.int32))
  small.close(small.apply(model, found.params, batch), logits, 1e-4)


def build(fields):
  return models.build(**freeze(fields))


@pytest.mark.parametrize('case', ['mistral_Model', 'gemma3_text_TextModel'])
def test_decoding_under_windows_is_the_full_pass(case):
  """A prompt that is longer than the window, then token by token."""
  found, (inputs, _) = load(case), io(case)
  model, batch = build(found.model), batch_of(inputs)[0]
  tokens = batch['tokens'][:1].astype(np.int32)
  full = small.apply(model, found.params, dict(tokens=tokens))
  step = jax.jit(decoding.step_of(model, found.params))
  cache = decoding.empty_cache(model, 1, tokens.shape[1])
  logits, cache = step(tokens[:, :6], cache)
  got = [logits]
  for t in range(6, tokens.shape[1]):
    logits, cache = step(tokens[:, t : t + 1], cache)
    got.append(logits)
  small.close(np.concatenate(got, 1), full)


# What configs mean ------------------------------------------------------------


def attention_of(tmp_path, case, **config):
  folder = variant(tmp_path / 'old', case, **config)
  return checkpoints.load(folder).model['attention']


@pytest.mark.parametrize(
  'old',
  [
    dict(rope_theta=500.0),
    dict(rope_theta=500.0, rope_scaling=dict(rope_type='default')),
    dict(rope_theta=3.0, rope_parameters=dict(rope_theta=500.0, factor=None)),
  ],
)
def test_configs_of_before_and_of_now(old, tmp_path):
  got = attention_of(
    tmp_path, 'llama_Model', **dict(rope_parameters=None) | old
  )
  assert got['rope'] == dict(base=500.0, scaling=dict(rope_type='default'))


def test_a_scaling_of_before(tmp_path):
  scaling = dict(type='yarn', factor=2.0, beta_fast=None)
  old = dict(rope_theta=500, rope_scaling=scaling)
  got = attention_of(tmp_path, 'qwen2_Model', **old)['rope']
  want = dict(rope_type='yarn', factor=2.0, original_max_position_embeddings=13)
  assert got == dict(base=500, scaling=want)


def test_gemma3_of_before(tmp_path):
  """A pattern in place of types, and positions beside each other."""
  old = dict(layer_types=None, sliding_window_pattern=2, rope_parameters=None)
  old |= dict(rope_theta=7e5, rope_local_base_freq=2e4)
  old |= dict(rope_scaling=dict(rope_type='linear', factor=8.0))
  got = attention_of(tmp_path, 'gemma3_text_TextModel', **old)
  assert got['window'] == (4, None)
  near, full = got['rope']
  assert near == dict(base=2e4, scaling=dict(rope_type='default'))
  assert full == dict(base=7e5, scaling=dict(rope_type='linear', factor=8.0))


@pytest.mark.parametrize(
  'case, config, window',
  [
    ('mistral_Model', dict(sliding_window=None), None),
    ('qwen2_Model', {}, (None, 4)),
    ('qwen2_Model', dict(layer_types=[NEAR, WHOLE]), (4, None)),
    ('qwen2_Model', dict(layer_types=None, max_window_layers=0), 4),
    ('qwen3_Model', dict(layer_types=None, use_sliding_window=False), None),
    ('gemma2_Model', dict(layer_types=None), (4, None)),
    ('gemma3_text_TextModel', dict(layer_types=[NEAR] * 2), 4),
  ],
)
def test_windows_of_layers(case, config, window, tmp_path):
  assert attention_of(tmp_path, case, **config)['window'] == window


def test_what_is_absent_is_as_in_transformers(tmp_path):
  folder = variant(tmp_path / 'old', 'mistral_Model')
  config = json.loads((folder / 'config.json').read_text())
  del config['sliding_window'], config['rms_norm_eps']
  (folder / 'config.json').write_text(json.dumps(config))
  model = checkpoints.load(folder).model
  assert (model['attention']['window'], model['epsilon']) == (4096, 1e-6)


def scaling(**fields):
  return dict(rope_scaling=fields)


@pytest.mark.parametrize(
  'case, config, words',
  [
    ('llama_Model', dict(hidden_act='elu'), "hidden_act='elu'; there are g"),
    (
      'gemma2_Model',
      dict(hidden_activation='x'),
      "hidden_activation='x'; there",
    ),
    (
      'llama_Model',
      scaling(rope_type='longrope', factor=2.0),
      "rope_parameters: .* rope_type='longrope'; expected one of default, lin",
    ),
    (
      'llama_Model',
      scaling(rope_type='linear'),
      r"rope_parameters: .* linear has \[\]; expected \['factor'\]",
    ),
    (
      'llama_Model',
      scaling(rope_type='linear', factor='2'),
      "rope_parameters: .* factor='2'; expected a number above 0",
    ),
    (
      'llama_Model',
      dict(rope_parameters=dict(rope_theta='x')),
      "rope_parameters: rope.base='x'; expected more than 1",
    ),
    (
      'llama_Model',
      dict(rope_scaling='linear'),
      "rope_scaling is 'linear', expected dict",
    ),
    (
      'llama_Model',
      scaling(partial_rotary_factor=0.5),
      'partial_rotary_factor is 0.5, expected 1',
    ),
    (
      'llama_Model',
      dict(quantization_config=dict(bits=4)),
      r"quantization_config is \{'bits': 4\}, expected None",
    ),
    ('llama_Model', dict(attention_bias=1), 'attention_bias is 1, expected b'),
    (
      'llama_Model',
      dict(head_dim=5),
      'head_dim is 5, expected an even number',
    ),
    (
      'llama_Model',
      dict(num_key_value_heads=3),
      'num_key_value_heads is 3, expected a divisor of 4',
    ),
    (
      'mistral_Model',
      dict(sliding_window=True),
      'sliding_window is True, expected int',
    ),
    (
      'qwen2_Model',
      dict(layer_types=[NEAR]),
      'layer_types has 1 layers, expected 2',
    ),
    (
      'qwen2_Model',
      dict(layer_types=['linear_attention', NEAR]),
      f"layer_types='linear_attention'; there are {WHOLE}, {NEAR}",
    ),
    (
      'qwen2_Model',
      dict(use_sliding_window=False),
      'sliding_window is missing; layers are sliding_attention',
    ),
    (
      'qwen2_Model',
      dict(num_hidden_layers=10**9),
      'num_hidden_layers is 1000000000, expected at least 1, below 1001',
    ),
    (
      'qwen3_Model',
      dict(rms_norm_eps=1e-5),
      'rms_norm_eps is 1e-05, expected 1e-06',
    ),
    (
      'gemma3_text_TextModel',
      dict(use_bidirectional_attention=True),
      'use_bidirectional_attention is True, expected False',
    ),
    (
      'gemma3_text_TextModel',
      dict(rope_parameters=dict(rope_theta=7.0)),
      f"rope_parameters='rope_theta'; there are {WHOLE}, {NEAR}",
    ),
    (
      'gemma3_text_TextModel',
      dict(rope_parameters={NEAR: 'x'}),
      f"rope_parameters.{NEAR} is 'x', expected dict",
    ),
    (
      'gemma3_text_TextModel',
      dict(rope_parameters={WHOLE: dict(rope_type='yarn', truncate=False)}),
      f'rope_parameters.{WHOLE}.truncate is False, expected True',
    ),
    (
      'mistral_Model',
      dict(sliding_window=10**12),
      'sliding_window is 10+, expected at least 0, b',
    ),
    (
      'gemma3_text_TextModel',
      dict(model_type='gemma3'),
      "model_type='gemma3'; there are .*gemma3_text",
    ),
  ],
)
def test_configs_that_we_have_no_model_for(case, config, words, tmp_path):
  refuses(tmp_path / 'old', case, config, words)


# Tensors ----------------------------------------------------------------------


def test_biases_that_the_config_does_not_have(tmp_path):
  folder = variant(tmp_path / 'old', 'llama_Model', attention_bias=False)
  with pytest.raises(ValueError, match=r'unexpected: layers\.0\.self_attn\.k_'):
    checkpoints.load(folder)


def test_floats_of_8_bits(tmp_path):
  folder = variant(tmp_path / 'old', 'llama_Model')
  head = b'{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
  size = len(head).to_bytes(8, 'little')
  (folder / 'model.safetensors').write_bytes(size + head + b'ab')
  with pytest.raises(ValueError, match=r'safetensors cannot be read: .*float8'):
    checkpoints.load(folder)


def test_buffers_of_older_versions_are_kept(tmp_path):
  """And half precision comes back, also of Gemma's norms, which are 1 + w."""
  name, frequencies = 'layers.0.self_attn.rotary_emb.inv_freq', np.ones(2, 'f')
  old = variant(
    tmp_path / 'old',
    'gemma2_Model',
    lambda x: (
      {k: v.astype(ml_dtypes.bfloat16) for k, v in x.items()}
      | {name: frequencies}
    ),
  )
  found = checkpoints.load(old)
  norm = found.params['decoder']['layer_1']['mlp_out_norm']['scale']
  stored = read(old)['layers.1.post_feedforward_layernorm.weight']
  np.testing.assert_array_equal(norm, 1 + stored.astype(np.float32))
  checkpoints.save(tmp_path / 'new', found)
  identical(read(tmp_path / 'new'), read(old))


def test_tied_outputs_are_not_told_from_the_file_but_by_the_config(tmp_path):
  """Qwen2's case is tied: another output is refused, and one's own is kept."""
  case, head = 'qwen2_ForCausalLM', 'lm_head.weight'
  tied = load(case)
  assert (tied.model['tied'], 'output' in tied.params) == (True, False)
  embed = 'model.embed_tokens.weight'
  other = lambda x: x | {head: x[embed] + 1}
  with pytest.raises(ValueError, match=f'{head} is not {embed}'):
    checkpoints.load(variant(tmp_path / 'a', case, other))
  apart = dict(tie_word_embeddings=False)
  found = checkpoints.load(variant(tmp_path / 'b', case, other, **apart))
  table = found.params['output']['embedding']
  np.testing.assert_array_equal(table, tied.params['embed']['embedding'] + 1)
  only = renamed(embed, head)
  again = checkpoints.load(variant(tmp_path / 'c', case, only))
  jax.tree.map(np.testing.assert_array_equal, again.params, tied.params)


def test_shards(tmp_path):
  """As large models come: two files, of which an index says what has what."""
  case = 'qwen3_ForCausalLM'
  folder = variant(tmp_path / 'old', case)
  tensors, names = read(GOLDEN / case), ['a.safetensors', 'b.safetensors']
  (folder / 'model.safetensors').unlink()
  index = {name: names[i % 2] for i, name in enumerate(tensors)}
  for shard in names:
    part = {name: x for name, x in tensors.items() if index[name] == shard}
    save_file(part, folder / shard)
  text = json.dumps(dict(weight_map=index))
  (folder / 'model.safetensors.index.json').write_text(text)
  got, want = checkpoints.load(folder).params, load(case).params
  jax.tree.map(np.testing.assert_array_equal, got, want)
