# SPDX-License-Identifier: Apache-2.0
"""ViT, arXiv 2010.11929."""

from collections.abc import Callable

from collab.convert.huggingface.families.family import (
  LABELS,
  Family,
  block,
  block_fields,
)
from collab.convert.huggingface.layouts import (
  DENSE,
  FIRST_ROW,
  NORM,
  WHOLE,
  patches,
)


def fields(get: Callable, mlp_dim: int = 0) -> dict:
  return block_fields(get, dropout=0.0, mlp_dim=mlp_dim) | dict(
    image_size=get('image_size'),
    channels=get('num_channels', 3),
    patch=get('patch_size', divides=get('image_size')),
    norm='pre',
    drop_path=0.0,
  )


EMBEDDINGS = (
  ('embeddings.cls_token', 'class', WHOLE),
  ('embeddings.distillation_token', 'distilled', WHOLE),
  ('embeddings.position_embeddings', 'positions/embedding', FIRST_ROW),
  ('embeddings.patch_embeddings.projection', 'patch', patches),
)
NORM_OUT = ('layernorm', 'encoder/norm', NORM)
BODY = (
  *EMBEDDINGS,
  *block(
    'encoder.layer.{}',
    heads='attention.attention.{name}',
    out='attention.output.dense',
    self_norm='layernorm_before',
    mlp_in='intermediate.dense',
    mlp_out='output.dense',
    mlp_norm='layernorm_after',
  ),
  NORM_OUT,
)
FIXED = dict(qkv_bias=True)

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
