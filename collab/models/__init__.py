# SPDX-License-Identifier: Apache-2.0
"""The models: stacks of one Block, composed by what the task needs."""

import math
import numbers

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab import imports
from collab.models.decoder import Decoder
from collab.models.encoder import Encoder
from collab.models.encoder_decoder import EncoderDecoder
from collab.models.vit import ViT

MODELS = dict(
  encoder=Encoder,
  decoder=Decoder,
  encoder_decoder=EncoderDecoder,
  vit=ViT,
)
# Of any model that has such a field.
SIZES = (
  'dim',
  'mlp_dim',
  'num_layers',
  'encoder_layers',
  'decoder_layers',
  'max_length',
  'vocab_size',
  'patch',
)
COUNTS = ('embed_dim', 'types', 'first_position', 'outputs')
RATES = ('dropout', 'attention_dropout', 'activation_dropout', 'drop_path')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


def build(name, **fields):
  """A model; raises ValueError or TypeError that lists the legal."""
  cls = find(name)
  _check(fields)
  return cls(**fields)


def find(name):
  """The class of a model by its name, or its import path; else ValueError."""
  if cls := imports.subclass(name, nn.Module):
    return cls
  if name not in list(MODELS):  # it may be anything
    raise ValueError(f'No model {name!r}; there are {", ".join(MODELS)}.')
  return MODELS[name]


def shapes(fields, batch):
  """The parameters of build(**fields), as ShapeDtypeStructs."""
  init = build(**fields).init
  return jax.eval_shape(init, jax.random.key(0), batch)['params']


def smallest(fields, channels=3):
  """The smallest batch of build(**fields), as ShapeDtypeStructs."""

  def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)

  if fields['name'] == 'vit':
    shape = (1, fields['image_size'], fields['image_size'], channels)
    return dict(images=jax.ShapeDtypeStruct(shape, jnp.float32))
  if fields['name'] == 'encoder_decoder':
    sides = ('source', 'target')
    keys = [f'{s}_{end}' for s in sides for end in ('segments', 'positions')]
    return dict.fromkeys(['source', 'target_inputs', *keys], ints(1, 1))
  rows = (1, 1) if fields.get('head') == 'choice' else (1,)
  keys = ('tokens', 'types', 'positions')
  return dict.fromkeys(keys, ints(*rows, 1)) | dict(lengths=ints(*rows))


def _check(fields):
  """Refuses values that are none, with a ValueError."""

  for key, value in fields.items():
    number = isinstance(value, numbers.Real)
    if key in SIZES:
      good, legal = number and value >= 1, 'at least 1'
    elif key in COUNTS:
      good, legal = number and value >= 0, 'at least 0'
    elif key in RATES:
      good, legal = number and 0 <= value < 1, 'at least 0, below 1'
    elif key == 'epsilon':
      good, legal = number and 0 <= value < math.inf, 'at least 0, finite'
    elif key == 'dtype' and isinstance(value, str):
      good, legal = value in DTYPES, ', '.join(DTYPES)
    else:
      continue
    if not good:
      raise ValueError(f'model.{key}={value!r}; expected {legal}.')
