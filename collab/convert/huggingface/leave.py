# SPDX-License-Identifier: Apache-2.0
"""Writes layers that Transformers lacks, with the code that runs them there.

The code is remote_code/modeling_collab.py, a file of the checkpoint. Torch's
linear layers store [out, in], as in `layouts`.
"""

from collections.abc import Mapping
import pathlib
import re

import numpy as np

from collab import attention
from collab.convert import intercept
from collab.convert.huggingface.plans import Plan

CODE = pathlib.Path(__file__).parent / 'remote_code' / 'modeling_collab.py'
# Fields that config.json has of the layers of a variant.
FIELDS = dict(
  collab=('shared_dim', 'bias', 'value_dims'),
  gqa=('kv_heads',),
  mha=('qkv_features', 'key_features', 'value_dims'),
  mhe_mul=(),
  mla=('latent_dim', 'planes'),
)
_ALWAYS = 'name', 'num_heads', 'use_bias'
# Which the tensors contain, or whose other values are refused.
_OWN = dict(mhe_mul=('offset',), mla=('rope_dim', 'decoupled'))
# Families with rotary positions that may have other attention than their own,
# and fields of it that have to be the config's.
_ROTARY = 'Llama', 'Mistral'
_ROTATED = 'rope', 'qkv_features'
# The Auto classes whose names do not follow from those of architectures.
_AUTO = dict(
  GPT2LMHeadModel='AutoModelForCausalLM',
  MarianMTModel='AutoModelForSeq2SeqLM',
  DeiTForImageClassificationWithTeacher='AutoModelForImageClassification',
)


def translate(
  plan: Plan, names: Mapping, model: Mapping, params: Mapping
) -> tuple[list, dict, dict]:
  """Translates the attention layers of a model.

  Args:
    plan: plan of the model that it was converted from.
    names: {key: name in the file}; see `checkpoints.Pretrained`.
    model: fields of models.build.
    params: its parameters.

  Returns:
    The fields of each layer for config.json, {name in the file: array} of the
    projections into heads, and the parameters without these projections.

  Raises:
    ValueError: there is no code for such a layer.
  """
  layers, tensors = [], {}
  for path, place, fields in intercept.layers(model, params):
    name, layer = fields['name'], attention.build(**fields)
    legal = {*_ALWAYS, *FIELDS.get(name, ()), *_OWN.get(name, ())}
    known = name in FIELDS
    if layer.rope:
      old = plan.model[place.field]
      legal |= {key for key in _ROTATED if fields.get(key) == old[key]}
      known = (
        name == 'mla'
        and plan.architecture.startswith(_ROTARY)
        and not old.get('window')
        and layer.use_bias
        and layer.decoupled == (layer.planes is not None)
      )
    if not known or fields.keys() - legal:
      raise ValueError(
        f'{place.field} is {dict(fields)}; expected that of the config, or '
        f'num_heads and the fields of one of {_shown()}; with rope, of mla '
        f'with planes or decoupled=False, for {" and ".join(_ROTARY)}.'
      )
    own = {key: getattr(layer, key) for key in ('num_heads', *FIELDS[name])}
    own = {key: value for key, value in own.items() if value}  # else default
    layers.append(dict(name=name) | own)
    parts, out = _WRITE[name](intercept.get(params, path), layer)
    if layer.rope:  # the config's has no biases
      parts['out'] = _rows(**out)
    params = intercept.put(params, path, {} if layer.rope else dict(out=out))
    for part, found in parts.items():
      module = _module(plan, names, '/'.join(path), part)
      tensors |= {f'{module}.{suffix}': x for suffix, x in found.items()}
  return layers, tensors, params


def plain(config: dict, model: Mapping) -> dict:
  """Returns the config of a Llama with the model's key heads and biases.

  That of any other model is returned as it is.
  """
  attention = model.get('attention', {})
  heads = attention.get('kv_heads')
  wanted = config['model_type'] == 'llama' and attention.get('name') == 'gqa'
  if not wanted or not isinstance(heads, int):
    return config
  bias = attention.get('use_bias', True)
  return config | dict(num_key_value_heads=heads, attention_bias=bias)


def describe(config: dict, plan: Plan, layers: list) -> dict:
  """Returns the config with which Transformers runs the code for `layers`."""
  base = next(iter(plan.family.architectures))
  family = base.removesuffix('Model')
  auto = dict(AutoConfig=f'{family}Config', AutoModel=base)
  if plan.architecture != base:
    head = 'AutoModel' + re.sub('^.*?(?=For|$)', '', plan.architecture)
    auto[_AUTO.get(plan.architecture, head)] = plan.architecture
  new = dict(
    model_type=f'collab_{config["model_type"]}',
    architectures=[f'Collab{plan.architecture}'],
    auto_map={k: f'{CODE.stem}.Collab{name}' for k, name in auto.items()},
    collab=layers,
  )
  if 'vocab_size' in plan.model:  # which else follows from the model_type
    words = f'{family}Tokenizer'
    if family in _ROTARY:  # their own class is not of every tokenizer.json
      words = 'PreTrainedTokenizerFast'
    config = dict(tokenizer_class=words) | config
  return config | new


def _shown():
  return ', '.join(f'{k} ({", ".join(x)})' for k, x in FIELDS.items())


def _module(plan, names, path, part):
  """Returns the name of the module for a projection of the layer at a path."""
  for key, (paths, *_) in plan.entries.items():
    if f'{path}/{part}/kernel' in paths:
      module = names.get(key, plan.name(key)).removesuffix('.weight')
      return module if len(paths) == 1 else f'{module}.{part}'
  raise AssertionError(path)


# The tensors of a layer, and its output projection ----------------------------


def _linear(kernel, bias=None):
  """Translates the parameters of a projection [D, ...]."""
  found = dict(weight=kernel.reshape(len(kernel), -1).T)
  return found if bias is None else found | dict(bias=bias.reshape(-1))


def _rows(kernel, bias):
  """Translates the parameters of the output projection [H, K, D]."""
  return dict(weight=kernel.reshape(-1, kernel.shape[-1]).T, bias=bias)


def _plain(p, layer):
  parts = {name: _linear(**p[name]) for name in ('query', 'key', 'value')}
  return parts, p['out']


def _collab(p, layer):
  """The content bias is further dimensions of the keys, one for each head."""
  parts, out = _plain(p, layer)
  parts['query']['mixing'] = p['mixing']
  if 'content_bias' in p:
    bias = p['content_bias']['kernel'].T
    parts['key']['weight'] = np.concatenate([parts['key']['weight'], bias])
  return parts, out


def _mhe_mul(p, layer):
  """The values' embeddings scale the rows of the output projection."""
  parts, out = _plain(p, layer)
  q, k, v = (
    layer.offset + p[f'{name}_embedding'] for name in ('query', 'key', 'value')
  )
  parts['query']['mixing'] = q * k
  return parts, out | dict(kernel=out['kernel'] * v[..., None])


def _mla(p, layer):
  query = _linear(**p['query'])
  query['up'] = p['key_up']['kernel'].transpose(1, 2, 0)
  value = dict(up=p['value_up']['kernel'].transpose(1, 0, 2))
  kept = [p[name]['kernel'] for name in ('latent', 'rope_key') if name in p]
  key = _linear(np.concatenate(kept, 1))
  return dict(query=query, key=key, value=value), p['out']


_WRITE = dict(
  collab=_collab, gqa=_plain, mha=_plain, mhe_mul=_mhe_mul, mla=_mla
)
