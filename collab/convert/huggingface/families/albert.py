# SPDX-License-Identifier: Apache-2.0
"""ALBERT, arXiv 1909.11942: all layers share parameters, small embeddings."""

from collections.abc import Callable

from collab.convert.huggingface.families import bert, encoder
from collab.convert.huggingface.families.family import block
from collab.convert.huggingface.layouts import DENSE


def fields(get: Callable) -> dict:
  return encoder.fields(get, dropout=0.0) | dict(
    activation=get('hidden_act', 'gelu_new'),
    embed_dim=get('embedding_size'),
    shared=True,
  )


FAMILY = encoder.family(
  'Albert',
  fields,
  fixed=bert.FIXED | dict(num_hidden_groups=1, inner_group_num=1),
  body=(
    ('encoder.embedding_hidden_mapping_in', 'embed_project', DENSE),
    *block(
      'encoder.albert_layer_groups.0.albert_layers.0',
      'encoder/layer_0',
      heads='attention.{name}',
      out='attention.dense',
      self_norm='attention.LayerNorm',
      mlp_in='ffn',
      mlp_out='ffn_output',
      mlp_norm='full_layer_layer_norm',
    ),
    ('pooler', 'pooler', DENSE),
  ),
  lm=(
    'predictions.dense',
    'predictions.LayerNorm',
    'predictions',
    'predictions.decoder',
  ),
  more=('ForPreTraining',),
  rest=('pooler.weight', 'pooler.bias', 'sop_classifier.*'),
)
