# SPDX-License-Identifier: Apache-2.0
"""Builds the models of all tasks by name, from the fields of a config."""

from collections.abc import Mapping
import dataclasses
import math
import numbers
from typing import Any, ClassVar, Protocol

from flax import linen as nn
import jax
import jax.numpy as jnp

from collab import attention, checks, imports
from collab.models.decoder import Decoder
from collab.models.encoder import Encoder
from collab.models.encoder_decoder import EncoderDecoder
from collab.models.transformer import BlockConfig, Place, hashable
from collab.models.vit import ViT

MODELS = dict(
  encoder=Encoder,
  decoder=Decoder,
  encoder_decoder=EncoderDecoder,
  vit=ViT,
)
SIZE, COUNT = (1, 2**31), (0, 2**31)
LAYERS = (1, 10_001)  # more would take for ever to trace
RATE = (0.0, 1.0)
# Ranges [least, end) of the fields of any model, of integers if `end` is one.
RANGES = {
  **dict.fromkeys(('dim', 'mlp_dim', 'max_length', 'vocab_size'), SIZE),
  **dict.fromkeys(('num_layers', 'encoder_layers', 'decoder_layers'), LAYERS),
  **dict.fromkeys(('image_size', 'patch'), SIZE),
  **dict.fromkeys(('source_vocab_size', 'decoder_mlp_dim'), COUNT),
  **dict.fromkeys(('embed_dim', 'types', 'first_position', 'outputs'), COUNT),
  **dict.fromkeys(('dropout', 'attention_dropout'), RATE),
  **dict.fromkeys(('activation_dropout', 'drop_path'), RATE),
  **dict.fromkeys(('epsilon', 'layer_scale'), (0, math.inf)),
}
# Fields of which a tuple has each layer's value.
PER_LAYER = {field.name for field in dataclasses.fields(BlockConfig)}
ATTENTIONS = ('attention', 'decoder_attention', 'cross_attention')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
# Fields that leave a model's outputs as they are, or that the names and shapes
# of its parameters tell; so do all whose name ends in one of ENDS.
NOT_COMPARED = {
  *('dropout', 'attention_dropout', 'activation_dropout', 'drop_path'),
  *('dropout_rate', 'broadcast_dropout', 'deterministic', 'layer_scale'),
  *('dtype', 'param_dtype', 'precision', 'force_fp32_for_softmax'),
  *('implementation', 'scan', 'remat', 'decode', 'name', 'parent'),
  *('dim', 'types', 'max_length', 'patch', 'channels', 'num_heads', 'kv_heads'),
  *('head_width', 'rank', 'length', 'projected_length', 'outputs', 'head'),
  *('pooler', 'use_bias', 'use_out_bias', 'output_bias'),
}
ENDS = '_dim', '_features', '_init', '_layers', '_size', '_std'


class Model(Protocol):
  """What a model tells about itself, so that no code depends on its name.

  Attributes:
    READS: 'texts' (rows of one text or two), 'stream' (rows of running text),
      'pairs' (of source and target) or 'images'.
    BLOCK: {field of BlockConfig: the model's own default}.
    dim: width of the model.
    block: BlockConfig.
    longest: maximum number of tokens of a sequence.
    scan: whether its layers run as a scan, see stack.Stack; may be omitted.
  """

  READS: ClassVar[str]
  BLOCK: ClassVar[dict]
  dim: int
  block: BlockConfig
  longest: int
  scan: bool

  def attentions(self) -> list[Place]:
    """Lists where the model has attention layers."""

  def example(self, rows: int = 1, length: int = 1) -> dict:
    """Returns the shapes of a batch, as a dict of jax.ShapeDtypeStruct."""

  def output_table(self, params: Mapping) -> tuple:
    """Returns (table [V, D], bias [V] or None), from features to logits.

    A third item c bounds the logits, see layers.capped. Only models of text
    have a table.
    """


def build(name: str, **fields: Any) -> Model:
  """Builds a model by name; the fields include those of its BlockConfig.

  Raises:
    ValueError, TypeError: there is no such name or field, or a value is
      illegal; the message lists what is legal.
  """
  model = find(name)
  _check(fields)
  block, rest = BlockConfig.of(fields)
  block = BlockConfig(**model.BLOCK | block)
  built = model(block=block, **hashable(rest))  # jax.jit takes it as static
  # A model of one's own may have no attention.
  for place in getattr(built, 'attentions', tuple)():
    _check_place(place)
  return built


def outline(data: Mapping, name: str, **fields: Any) -> Model:
  """Builds the model of a config whose data are not there.

  Sizes that only they tell (ids, classes, the side of images) are made up: the
  side of a patch, or 1. They decide the shapes of tables and heads alone.

  Args:
    data: `data` of the config, which may have such a field itself.
    name, **fields: its `model`; see `build`.
  """
  model = find(name)
  one = fields.get('patch', getattr(model, 'patch', 1))
  told = {
    field.name: data.get(field.name) or one
    for field in dataclasses.fields(model)
    if field.default is dataclasses.MISSING
    and field.name not in ('block', 'parent', *fields)
  }
  return build(name, **fields, **told)


def check(data: Mapping, name: str, **fields: Any) -> None:
  """Refuses a model that cannot be made, before its data are prepared.

  A model of one's own is not checked: data may decide any of its fields.

  Args:
    data, name, **fields: see `outline`.

  Raises:
    ValueError, TypeError: as in `build`, or as the model's `init` does.
  """
  if find(name) in MODELS.values():
    shapes(outline(data, name, **fields))


def find(name: str) -> type[nn.Module]:
  """Finds the class of a model by name or import path; else ValueError."""
  if cls := imports.subclass(name, nn.Module):
    return cls
  if name not in list(MODELS):  # the name may have any type
    raise ValueError(f'No model {name!r}; there are {", ".join(MODELS)}.')
  return MODELS[name]


def computation(model: Model) -> dict[str, Any]:
  """Returns the fields that decide what a model computes from parameters.

  Those of each attention are named by its place: 'decoder attention.rope'. The
  others are left out, see NOT_COMPARED.
  """
  found = _deciding('model', model)
  if block := getattr(model, 'block', None):  # one's own model may have none
    found |= _deciding('model', block)
  for place in getattr(model, 'attentions', tuple)():
    key = f'{place.name} attention'
    layers = [attention.build(**fields) for fields in place.each()]
    each = [
      {f'{key}.name': type(layer).__name__} | _deciding(key, layer)
      for layer in layers
    ]
    for name, value in each[0].items():
      values = tuple(x.get(name) for x in each)
      found[name] = value if values == (value,) * len(each) else values
  return found


def _deciding(key, of):
  names = {field.name for field in dataclasses.fields(of)}
  names -= {*NOT_COMPARED, *ATTENTIONS, 'block'}
  return {
    f'{key}.{name}': getattr(of, name)
    for name in sorted(names)
    if not name.endswith(ENDS)
  }


def zeros(shapes: Any) -> Any:
  """Makes arrays of zeros for a tree of jax.ShapeDtypeStruct."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def shapes(model: Model) -> Any:
  """Returns the parameters of a Model as ShapeDtypeStructs."""
  key = jax.random.key(0)
  return jax.eval_shape(model.init, key, model.example())['params']


def _check_place(place):
  """Raises ValueError for an attention that cannot be made, or not be there."""
  with checks.located(f'model.{place.field}', (TypeError, ValueError)):
    for fields in place.each():
      layer = attention.build(**fields)
      if layer.mixes_tokens and (place.causal or place.cross or place.packed):
        raise ValueError(
          f'{fields["name"]} is for encoders of one sequence a row: it mixes '
          'keys of all places, so it neither decodes nor keeps sequences apart.'
        )
      if layer.window is not None and place.cross:
        raise ValueError(
          f'window={layer.window}, but places in a memory are not those of '
          'queries; expected no window.'
        )


def _check(fields):
  """Raises ValueError for fields that are out of range."""
  for place in ATTENTIONS:
    given = fields.get(place)
    if not given and place != 'attention':
      continue
    if not isinstance(given, Mapping) or 'name' not in given:
      raise ValueError(
        f'model.{place}={given!r}; expected a dict with a name, one of '
        f'{", ".join(attention.names())}.'
      )
  for key, value in fields.items():
    if key in RANGES:
      least, end = RANGES[key]
      kind, what = numbers.Real, ''
      if isinstance(end, int):
        kind, what = numbers.Integral, ', an integer'
      by_layer = key in PER_LAYER and isinstance(value, tuple)
      for x in value if by_layer else (value,):
        if not isinstance(x, kind) or not least <= x < end:
          raise ValueError(
            f'model.{key}={value!r}; expected at least {least}, below '
            f'{end}{what}.'
          )
  cap = fields.get('soft_cap')
  real = isinstance(cap, numbers.Real)
  if cap is not None and not (real and 0 < cap < math.inf):
    raise ValueError(f'model.soft_cap={cap!r}; expected more than 0, or None.')
  dtype = fields.get('dtype')
  if isinstance(dtype, str) and dtype not in DTYPES:
    raise ValueError(
      f'model.dtype={dtype!r}; expected one of {", ".join(DTYPES)}.'
    )
  if dtype == 'float64' and not jax.config.jax_enable_x64:
    raise ValueError(
      f'model.dtype={dtype!r} needs JAX_ENABLE_X64=1; without it JAX computes '
      'in float32.'
    )
