# SPDX-License-Identifier: Apache-2.0
"""Reads a GGUF file of llama.cpp as the checkpoint that it was made from.

The file has everything under other names: the config and the tokenizer are
metadata. Numbers of a few bits are read as float32, by the package `gguf`.
"""

import importlib.util
import pathlib
import re

import numpy as np
import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
)

from collab import checks
from collab.attention.rope import Rope
from collab.convert.huggingface.families import FAMILIES

SUFFIX = '.gguf'
TYPES = 'llama', 'qwen2', 'qwen3'  # of general.architecture and model_type
FIELDS = {  # after the architecture's name -> in config.json
  'embedding_length': 'hidden_size',
  'block_count': 'num_hidden_layers',
  'feed_forward_length': 'intermediate_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'context_length': 'max_position_embeddings',
  'rope.freq_base': 'rope_theta',
}
SCALING = {
  'type': 'rope_type',
  'factor': 'factor',
  'original_context_length': 'original_max_position_embeddings',
}
# Others that may be there; they are checked, or have no effect.
KNOWN = {'attention.key_length', 'attention.value_length', 'vocab_size'}
KNOWN |= {'rope.dimension_count', 'rope.scaling.finetuned', *FIELDS}
KNOWN |= {f'rope.scaling.{name}' for name in SCALING}
TENSORS = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
}
OF_BLOCKS = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
FACTORS = 'rope_freqs.weight'  # what llama3 scaling divides the rates by
CONTROL, USER = 3, 4  # types of tokens that no merge makes


def _words(digits):
  """Cuts a text as Llama 3 and Qwen2 do, who differ in runs of digits."""
  pattern = tokenizers.Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
  )
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(pattern, 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
SINGLE_DIGITS = pre_tokenizers.Digits(individual_digits=True)
# {tokenizer.ggml.pre: parts of the tokenizer before its merges}
PRE = {
  'gpt-2': dict(pre_tokenizer=BYTES),
  'smollm': dict(pre_tokenizer=pre_tokenizers.Sequence([SINGLE_DIGITS, BYTES])),
  'llama-bpe': dict(pre_tokenizer=_words(r'\p{N}{1,3}')),
  'qwen2': dict(pre_tokenizer=_words(r'\p{N}'), normalizer=normalizers.NFC()),
}


def read(path: pathlib.Path) -> tuple[dict, dict[str, np.ndarray], str]:
  """Reads a file.

  Returns:
    What config.json, the tensors and tokenizer.json would be.

  Raises:
    ValueError: the package is missing, the file is damaged, or it is of a model
      or a tokenizer that we do not have.
  """
  if not importlib.util.find_spec('gguf'):
    raise ValueError(f"{path} needs gguf: pip install 'collab[convert]'")
  import gguf

  # The libraries raise any kind of exception.
  with checks.located(f'{path} cannot be read', Exception):
    file = gguf.GGUFReader(path)
    metadata = {name: x.contents() for name, x in file.fields.items()}
    tensors = {
      x.name: gguf.dequantize(x.data, x.tensor_type) for x in file.tensors
    }
    config = _config(metadata, tensors, tensors.pop(FACTORS, None))
    return config, _tensors(tensors, config), _tokenizer(metadata)


def _config(metadata, tensors, factors):
  """Makes the config from metadata and the shapes of tensors."""
  kind = _field(metadata, 'general.architecture')
  checks.one_of('general.architecture', kind, TYPES)
  start = f'{kind}.'
  own = {
    name.removeprefix(start): x
    for name, x in metadata.items()
    if name.startswith(start)
  }
  if unknown := sorted(own.keys() - KNOWN):
    raise ValueError(f'{start}{unknown[0]} is unknown; it may matter.')
  own = {'rope.freq_base': 1e4} | own
  config = {name: own[key] for key, name in FIELDS.items() if key in own}
  for name, x in config.items():
    if isinstance(x, float):  # float32: 1e-5 is 9.99999974e-6
      config[name] = float(str(np.float32(x)))
  heads = _field(metadata, f'{start}attention.head_count')
  config.setdefault('num_key_value_heads', heads)
  width = own.get('attention.key_length')
  if width is None:
    width = _field(metadata, f'{start}embedding_length') // heads
  for key in ('attention.value_length', 'rope.dimension_count'):
    if own.get(key, width) != width:
      raise ValueError(f'{start}{key} is {own[key]}, expected {width}.')
  config |= dict(
    model_type=kind,
    architectures=[
      x for x in FAMILIES[kind].architectures if x.endswith('ForCausalLM')
    ],
    vocab_size=len(_field(tensors, 'token_embd.weight')),
    head_dim=width,
    tie_word_embeddings='output.weight' not in tensors,
  )
  if factors is not None:
    config['rope_scaling'] = _llama3(factors, config['rope_theta'], width)
  elif own.get('rope.scaling.type', 'none') != 'none':
    config['rope_scaling'] = {
      name: own[f'rope.scaling.{key}']
      for key, name in SCALING.items()
      if f'rope.scaling.{key}' in own
    }
  for role, name in dict(bos='bos', eos='eos', pad='padding').items():
    if (key := f'tokenizer.ggml.{name}_token_id') in metadata:
      config[f'{role}_token_id'] = metadata[key]
  return config


def _field(values, name):
  if name not in values:
    raise ValueError(f'{name} is missing.')
  return values[name]


def _llama3(factors, base, width):
  """Finds the scaling with these factors; only 3.1's own constants exist."""
  scaling = dict(
    rope_type='llama3',
    factor=float(factors.max()),
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
  )
  plain, _ = Rope(base).rates(width)
  scaled, _ = Rope(base, scaling=scaling).rates(width)
  want = plain / scaled
  if want.shape != factors.shape or not np.allclose(want, factors, rtol=1e-4):
    raise ValueError(f'{FACTORS} is not what rope_type=llama3 makes.')
  return scaling


def _tensors(tensors, config):
  """Renames tensors, and undoes the interleaving of llama's rotary planes."""
  heads = dict(q=config['num_attention_heads'], k=config['num_key_value_heads'])
  found = {}
  for name, x in tensors.items():
    part = re.fullmatch(r'(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)', name)
    layer, module, end = part.groups() if part else ('', '', '')
    if layer is None and module in TENSORS:
      name = f'{TENSORS[module]}.{end}'
    elif layer and module in OF_BLOCKS:
      name = f'model.layers.{layer}.{OF_BLOCKS[module]}.{end}'
    if config['model_type'] == 'llama' and module in ('attn_q', 'attn_k'):
      x = _half_split(x, heads[module[-1]])
    found[name] = x
  return found


def _half_split(x, heads):
  """Reorders rows from (0, 1) planes to those of (i, i + d/2), each head."""
  if len(x) % (2 * heads):
    raise ValueError(f'{len(x)} rows of queries or keys for {heads} heads.')
  planes = x.reshape(heads, -1, 2, *x.shape[1:])
  return planes.swapaxes(1, 2).reshape(x.shape)


def _tokenizer(metadata):
  """Makes the text of tokenizer.json from vocabulary and merges."""
  get = lambda name: _field(metadata, f'tokenizer.ggml.{name}')
  checks.one_of('tokenizer.ggml.model', get('model'), ('gpt2',))
  kind = get('pre')
  checks.one_of('tokenizer.ggml.pre', kind, PRE)
  tokens = get('tokens')
  rules = tokenizers.Tokenizer(
    models.BPE(
      {token: i for i, token in enumerate(tokens)},
      [tuple(merge.split(' ')) for merge in get('merges')],
      ignore_merges=kind == 'llama-bpe',  # a whole word of the vocabulary stays
    )
  )
  for name, part in PRE[kind].items():
    setattr(rules, name, part)
  rules.decoder = decoders.ByteLevel()
  for role, special in ((CONTROL, True), (USER, False)):
    added = [
      AddedToken(token, normalized=False, special=special)
      for token, its in zip(tokens, get('token_type'), strict=True)
      if its == role
    ]
    (rules.add_special_tokens if special else rules.add_tokens)(added)
  return rules.to_str()
