# SPDX-License-Identifier: Apache-2.0
"""ALBERT, arXiv 1909.11942: one layer for all, small embeddings."""

from collab.convert.huggingface.families import bert
from collab.convert.huggingface.families.family import (
  CLASSIFIER,
  EMBEDDINGS,
  SPAN,
  Family,
  heads,
  layer,
)
from collab.convert.huggingface.layouts import (
  DENSE,
  HEADS,
  NORM,
  WHOLE,
)


def fields(get):
  return bert.fields(get) | dict(
    activation=get('hidden_act', 'gelu_new'),
    dropout=get('hidden_dropout_prob', 0.0),
    attention_dropout=get('attention_probs_dropout_prob', 0.0),
    embed_dim=get('embedding_size'),
    shared=True,
  )


FAMILY = Family(
  model='encoder',
  fields=fields,
  fixed=bert.FIXED | dict(num_hidden_groups=1, inner_group_num=1),
  architectures=heads('Albert', 'ForPreTraining'),
  prefix='albert',
  body=(
    *EMBEDDINGS,
    ('encoder.embedding_hidden_mapping_in', 'embed_project', DENSE),
    *layer(
      'encoder.albert_layer_groups.0.albert_layers.0',
      'encoder/layer_0',
      {
        'self_attention/query': ('attention.query', HEADS),
        'self_attention/key': ('attention.key', HEADS),
        'self_attention/value': ('attention.value', HEADS),
        'self_attention/out': ('attention.dense', DENSE),
        'self_norm': ('attention.LayerNorm', NORM),
        'mlp_in': ('ffn', DENSE),
        'mlp_out': ('ffn_output', DENSE),
        'mlp_norm': ('full_layer_layer_norm', NORM),
      },
    ),
    ('pooler', 'pooler', DENSE),
  ),
  head=(
    SPAN,
    ('predictions.dense', 'head/dense', DENSE),
    ('predictions.LayerNorm', 'head/norm', NORM),
    ('predictions.bias', 'head/bias', WHOLE),
    CLASSIFIER,
  ),
  pooler=True,
  tied={
    'predictions.decoder.weight': 'embeddings.word_embeddings.weight',
    'predictions.decoder.bias': 'predictions.bias',
  },
  rest=(
    'embeddings.position_ids',
    'pooler.weight',
    'pooler.bias',
    'sop_classifier.*',
  ),
)
