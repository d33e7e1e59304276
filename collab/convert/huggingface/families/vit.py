# SPDX-License-Identifier: Apache-2.0
"""ViT, arXiv 2010.11929."""

from collab.convert.huggingface.families.family import LABELS, Family, layer
from collab.convert.huggingface.layouts import (
  DENSE,
  FIRST_ROW,
  HEADS,
  NORM,
  WHOLE,
  patches,
)


def fields(get):
  return dict(
    image_size=get('image_size'),
    channels=get('num_channels', 3),
    patch=get('patch_size'),
    dim=get('hidden_size'),
    num_layers=get('num_hidden_layers'),
    mlp_dim=get('intermediate_size'),
    activation=get('hidden_act', 'gelu'),
    norm='pre',
    epsilon=get('layer_norm_eps', 1e-12),
    dropout=get('hidden_dropout_prob', 0.0),
    attention_dropout=get('attention_probs_dropout_prob', 0.0),
    activation_dropout=0.0,
    drop_path=0.0,
    attention=dict(name='mha', num_heads=get('num_attention_heads')),
  )


BODY = (
  ('embeddings.cls_token', 'class', WHOLE),
  ('embeddings.distillation_token', 'distilled', WHOLE),
  ('embeddings.position_embeddings', 'positions/embedding', FIRST_ROW),
  ('embeddings.patch_embeddings.projection', 'patch', patches),
  *layer(
    'encoder.layer.{}',
    'encoder/layer_{}',
    {
      'self_attention/query': ('attention.attention.query', HEADS),
      'self_attention/key': ('attention.attention.key', HEADS),
      'self_attention/value': ('attention.attention.value', HEADS),
      'self_attention/out': ('attention.output.dense', DENSE),
      'self_norm': ('layernorm_before', NORM),
      'mlp_in': ('intermediate.dense', DENSE),
      'mlp_out': ('output.dense', DENSE),
      'mlp_norm': ('layernorm_after', NORM),
    },
  ),
  ('layernorm', 'encoder/norm', NORM),
)
FIXED = dict(qkv_bias=True, pruned_heads={})

FAMILY = Family(
  model='vit',
  fields=fields,
  fixed=FIXED,
  architectures=dict(
    ViTModel=dict(outputs=0, distillation='none'),
    ViTForImageClassification=dict(outputs=LABELS, distillation='none'),
  ),
  prefix='vit',
  body=BODY,
  head=(('classifier', 'head', DENSE),),
  rest=('pooler.dense.*',),
)
