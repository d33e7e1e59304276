# SPDX-License-Identifier: Apache-2.0
"""BERT, arXiv 1810.04805."""

from collab.convert.huggingface.families import encoder
from collab.convert.huggingface.families.family import block
from collab.convert.huggingface.layouts import DENSE

FIXED = dict(
  position_embedding_type='absolute',
  is_decoder=False,
  add_cross_attention=False,
)
BODY = (
  *block(
    'encoder.layer.{}',
    heads='attention.self.{name}',
    out='attention.output.dense',
    self_norm='attention.output.LayerNorm',
    mlp_in='intermediate.dense',
    mlp_out='output.dense',
    mlp_norm='output.LayerNorm',
  ),
  ('pooler.dense', 'pooler', DENSE),
)

FAMILY = encoder.family(
  'Bert',
  encoder.fields,
  fixed=FIXED,
  body=BODY,
  lm=(
    'cls.predictions.transform.dense',
    'cls.predictions.transform.LayerNorm',
    'cls.predictions',
    'cls.predictions.decoder',
  ),
  more=('ForPreTraining',),
  rest=('pooler.dense.*', 'cls.seq_relationship.*'),
)
