# SPDX-License-Identifier: Apache-2.0
"""The decoder with the fields of Llama and Qwen3 is Transformers' own."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors import safe_open

from collab import models
from tests.models import small

FOLDER = pathlib.Path(__file__).parent / 'llama'
CASES = sorted(path.stem for path in FOLDER.glob('*.safetensors'))
# Transformers' names in a layer -> ours, and the axes of heads.
LAYER = {
  'input_layernorm': 'self_norm/scale',
  'post_attention_layernorm': 'mlp_norm/scale',
  'self_attn.q_proj': 'self_attention/query/kernel',
  'self_attn.k_proj': 'self_attention/key/kernel',
  'self_attn.v_proj': 'self_attention/value/kernel',
  'self_attn.o_proj': 'self_attention/out/kernel',
  'self_attn.q_norm': 'self_attention/query_norm/scale',
  'self_attn.k_norm': 'self_attention/key_norm/scale',
  'mlp.gate_proj': 'mlp_gate/kernel',
  'mlp.up_proj': 'mlp_in/kernel',
  'mlp.down_proj': 'mlp_out/kernel',
}
WHOLE = {
  'model.embed_tokens': 'embed/embedding',
  'model.norm': 'decoder/norm/scale',
  'lm_head': 'output/embedding',
}


def read(case):
  """A file's tensors and Transformers' config."""
  with safe_open(FOLDER / f'{case}.safetensors', 'numpy') as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, json.loads(file.metadata()['config'])


def build(config):
  """Our model of a config of Transformers."""
  H, d = config['num_attention_heads'], config.get('head_dim')
  scaling = dict(config['rope_parameters'])
  rope = dict(base=scaling.pop('rope_theta'), scaling=scaling)
  return models.build(
    'decoder',
    vocab_size=config['vocab_size'],
    dim=config['hidden_size'],
    num_layers=config['num_hidden_layers'],
    mlp='gated',
    mlp_dim=config['intermediate_size'],
    activation='silu',
    use_bias=False,
    norm_kind='rms',
    epsilon=config['rms_norm_eps'],
    tied=config.get('tie_word_embeddings', False),
    positions='none',
    attention=dict(
      name='gqa',
      num_heads=H,
      kv_heads=config['num_key_value_heads'],
      qkv_features=H * d if d else None,
      rope=rope,
      qk_norm=d is not None,  # only Qwen3 states its width
    ),
  )


def parameters(shapes, tensors):
  """Our tree of parameters, from Transformers' tensors."""
  names = {f'{theirs}.weight': ours for theirs, ours in WHOLE.items()}
  for i in range(2):
    for theirs, ours in LAYER.items():
      names[f'model.layers.{i}.{theirs}.weight'] = f'decoder/layer_{i}/{ours}'
  theirs = {ours: name for name, ours in names.items()}
  used = []

  def leaf(path, x):
    name = theirs[jax.tree_util.keystr(path, simple=True, separator='/')]
    used.append(name)
    turned = tensors[name].T if name.endswith('_proj.weight') else tensors[name]
    return turned.reshape(x.shape)

  tree = jax.tree_util.tree_map_with_path(leaf, shapes)
  assert set(used) == tensors.keys()
  return tree


def test_there_are_cases():
  assert CASES == ['linear', 'llama', 'llama3', 'qwen3', 'yarn']


@pytest.mark.parametrize('case', CASES)
def test_logits_are_those_of_transformers(case):
  tensors, config = read(case)
  tokens, logits = tensors.pop('tokens'), tensors.pop('logits')
  model, batch = build(config), dict(tokens=tokens.astype(np.int32))
  params = parameters(small.shapes(model, batch), tensors)
  small.close(small.apply(model, params, batch), logits, 1e-4)
