# SPDX-License-Identifier: Apache-2.0
"""The models: stacks of one Block, composed by what the task needs."""

from collections.abc import Mapping
import math
import numbers
from typing import ClassVar, Protocol

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab import attention, imports
from collab.models.decoder import Decoder
from collab.models.encoder import Encoder
from collab.models.encoder_decoder import EncoderDecoder
from collab.models.transformer import BlockConfig, Place
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
  'image_size',
  'patch',
)
COUNTS = ('embed_dim', 'types', 'first_position', 'outputs')
ATTENTIONS = ('attention', 'decoder_attention', 'cross_attention')
RATES = ('dropout', 'attention_dropout', 'activation_dropout', 'drop_path')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


class Model(Protocol):
  """What a model, a linen Module, says of itself; nobody asks for its name.

  Attributes:
    READS: 'texts' (rows of one text or two), 'stream' (rows of running text),
      'pairs' (of source and target) or 'images'.
    BLOCK: {field of BlockConfig: the model's own default}.
    dim: width of the model.
    block: BlockConfig.
    longest: tokens of a sequence at most.
  """

  READS: ClassVar[str]
  BLOCK: ClassVar[dict]
  dim: int
  block: BlockConfig
  longest: int

  def attentions(self) -> list[Place]:
    """Where its attention layers are."""

  def example(self, rows: int = 1, length: int = 1) -> dict:
    """The shapes of a batch, as a dict of jax.ShapeDtypeStruct."""

  def output_table(self, params) -> tuple:
    """(table [V, D], bias [V] or None) that turn its features into logits.

    Only of models of text.
    """


def build(name, **fields) -> Model:
  """A model by name and fields, those of its BlockConfig among them.

  Raises:
    ValueError, TypeError: no such name, field or value; it lists the legal.
  """
  model, own = find(name), BlockConfig.names()
  _check(fields)
  block = model.BLOCK | {k: x for k, x in fields.items() if k in own}
  rest = {k: x for k, x in fields.items() if k not in own}
  return model(block=BlockConfig(**block), **rest)


def find(name):
  """The class of a model by its name, or its import path; else ValueError."""
  if cls := imports.subclass(name, nn.Module):
    return cls
  if name not in list(MODELS):  # it may be anything
    raise ValueError(f'No model {name!r}; there are {", ".join(MODELS)}.')
  return MODELS[name]


def zeros(shapes):
  """Arrays of zeros for a tree of jax.ShapeDtypeStruct."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def shapes(model):
  """The parameters of a Model, as ShapeDtypeStructs."""
  key = jax.random.key(0)
  return jax.eval_shape(model.init, key, model.example())['params']


def _check_attention(place, fields):
  """Refuses fields that are none of an attention, with a ValueError."""
  if not isinstance(fields, Mapping) or 'name' not in fields:
    raise ValueError(
      f'model.{place}={fields!r}; expected a dict with a name, one of '
      f'{", ".join(attention.names())}.'
    )
  layer = attention.variants.variant(fields['name'])
  for key, values in fields.items():
    for x in values if isinstance(values, tuple | list) else [values]:
      try:
        attention.fields.check(layer, {key: x})
      except (TypeError, ValueError) as e:
        raise ValueError(f'model.{place}.{e}') from e


def _check(fields):
  """Refuses values that are none, with a ValueError."""

  for place in ATTENTIONS:
    if fields.get(place) or place == 'attention':
      _check_attention(place, fields.get(place))
  for key, value in fields.items():
    number = isinstance(value, numbers.Real)
    if key in SIZES:
      good, legal = number and 1 <= value < 2**31, 'at least 1, below 2^31'
    elif key in COUNTS:
      good, legal = number and 0 <= value < 2**31, 'at least 0, below 2^31'
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
