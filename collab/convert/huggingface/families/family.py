# SPDX-License-Identifier: Apache-2.0
"""Describes a family of Hugging Face's models: how its tensors map to ours.

A row is (module in the checkpoint, path in our parameters, layout, and
optionally the only architecture with this row). '{}' is replaced by the number
of a layer. A row is skipped if the model lacks one of its parameters, or if an
earlier row has filled it. Rows of heads come before those of the body.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from collab.convert.huggingface.layouts import DENSE, HEADS, NORM

LABELS = 'labels'  # means the number of labels in the config

# Maps Hugging Face's names of activations to those of models.layers.
ACTIVATIONS = dict(
  gelu='gelu',
  gelu_new='gelu_tanh',
  gelu_pytorch_tanh='gelu_tanh',
  relu='relu',
  silu='silu',
  swish='silu',
)

MOST_LAYERS = 1000  # a config with more would take for ever to look at


class Family(NamedTuple):
  """What checkpoints of one model_type have in common.

  Attributes:
    model: name for models.build.
    fields: function get -> fields of the model, except those of training and of
      the head; get(name[, default]) reads config.json.
    fixed: {field of config.json: the only supported value, if it is present}.
    defaults: {field of config.json: value where it is absent}; what is null has
      the default of `get`.
    architectures: {name: fields that follow from it}; the first is the body.
    prefix: prefix of the body's names in the other architectures.
    body, head: rows. A body with a row for a pooler may lack the pooler.
    tied: {name: name of the tensor that it has to equal, or stands for}.
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
  tied: Mapping = {}
  waves: tuple = ()
  rest: tuple = ()
  defaults: Mapping = {}


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


def block_fields(get: Callable, dropout: float) -> dict:
  """Reads the fields of blocks from a config with BERT's names."""
  return dict(
    dim=get('hidden_size'),
    num_layers=get('num_hidden_layers'),
    mlp_dim=get('intermediate_size'),
    activation=get('hidden_act', 'gelu'),
    epsilon=get('layer_norm_eps', 1e-12),
    dropout=get('hidden_dropout_prob', dropout),
    attention_dropout=get('attention_probs_dropout_prob', dropout),
    activation_dropout=0.0,
    attention=dict(name='mha', num_heads=get('num_attention_heads')),
  )
