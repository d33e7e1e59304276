# SPDX-License-Identifier: Apache-2.0
"""Describes a family of Hugging Face's models: how its tensors map to ours.

A row is (module in the checkpoint, path in our parameters, layout, and
optionally the only architecture with this row). '{}' is replaced by the number
of a layer. A row is skipped if the model lacks one of its parameters, or if an
earlier row has filled it. Rows of heads come before those of the body.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from collab.convert.huggingface.layouts import DENSE, HEADS, NORM

LABELS = 'labels'  # means the number of labels in the config

# Maps Hugging Face's names of activations to those of models.layers.
ACTIVATIONS = dict(
  gelu='gelu',
  gelu_python='gelu',
  gelu_accurate='gelu_tanh',
  gelu_fast='gelu_tanh',
  gelu_new='gelu_tanh',
  gelu_python_tanh='gelu_tanh',
  gelu_pytorch_tanh='gelu_tanh',
  mish='mish',
  quick_gelu='quick_gelu',
  relu='relu',
  relu2='relu2',
  silu='silu',
  swish='silu',
  tanh='tanh',
)
# Ranges [least, end). A config of more layers would take for ever to look at.
LAYERS, RATE = (1, 1001), (0, 1)


class Family(NamedTuple):
  """What checkpoints of one model_type have in common.

  Attributes:
    model: name for models.build.
    fields: function get -> fields of the model, except those of training and of
      the head; get(name[, default]) reads config.json, see plans.reader.
    fixed: {field of config.json: the only supported value, if it is present}.
    defaults: {field of config.json: value where it is absent}; what is null has
      the default of `get`.
    number: function get, number of a layer -> what stands for '{}' in modules.
    architectures: {name: fields that follow from it}; the first is the body.
    prefix: prefix of the body's names in the other architectures.
    body, head: rows. A body with a row for a pooler may lack the pooler.
    tied: pairs of a name and that of the tensor, if the model has this one,
      that it has to equal, or stands for.
    waves: names of tensors that have to be the table of exact sinusoids.
    rest: patterns of names that our models do not use.
  """

  model: str
  fields: Callable
  fixed: Mapping
  architectures: Mapping
  prefix: str
  body: tuple
  head: tuple = ()
  tied: tuple = ()
  waves: tuple = ()
  rest: tuple = ()
  defaults: Mapping = {}
  number: Callable = lambda get, n: n


def block(
  module: str,
  path: str = 'encoder/layer_{}',
  *,
  heads: str,
  out: str,
  norm: tuple = NORM,
  **others: str,
) -> list[tuple]:
  """Makes the rows of a transformer block.

  Args:
    module: name of the block in the checkpoint; `heads`, `out` and the others
      are modules within it.
    path: path of the block in our parameters.
    heads: see `attention`.
    out: see `attention`.
    norm: layout of the norms.
    **others: modules of MLP and norms by our names.
  """
  return attention(module, f'{path}/self_attention', heads, out) + [
    (
      f'{module}.{theirs}',
      f'{path}/{ours}',
      norm if ours.endswith('norm') else DENSE,
    )
    for ours, theirs in others.items()
  ]


def attention(module: str, path: str, heads: str, out: str) -> list[tuple]:
  """Makes the rows of an attention layer.

  Args:
    module: module with the projections in the checkpoint.
    path: path of the attention in our parameters.
    heads: queries, keys and values in the module, with {name} for 'query',
      'key' or 'value', or {letter} for its first letter.
    out: the output projection in the module.
  """
  rows = [
    (f'{module}.{heads.format(name=n, letter=n[0])}', f'{path}/{n}', HEADS)
    for n in ('query', 'key', 'value')
  ]
  return [*rows, (f'{module}.{out}', f'{path}/out', DENSE)]


def block_fields(get: Callable, dropout: float, mlp_dim: int = 0) -> dict:
  """Reads the fields of blocks, mlp_dim if it is 0, from BERT's names."""
  return dict(
    dim=get('hidden_size'),
    num_layers=get('num_hidden_layers', legal=LAYERS),
    mlp_dim=mlp_dim or get('intermediate_size'),
    activation=get('hidden_act', 'gelu', legal=ACTIVATIONS),
    epsilon=get('layer_norm_eps', 1e-12),
    dropout=get('hidden_dropout_prob', dropout, legal=RATE),
    attention_dropout=get('attention_probs_dropout_prob', dropout, legal=RATE),
    activation_dropout=0.0,
    attention=mha(get, 'num_attention_heads', get('hidden_size')),
  )


def mha(get: Callable, heads: str, dim: int, **others: Any) -> dict:
  """Reads the fields of multi-head attention.

  Args:
    get: see `Family`.
    heads: name of the field with the number of heads.
    dim: width of the model.
    **others: further fields of the attention.
  """
  return dict(name='mha', num_heads=get(heads, divides=dim)) | others
