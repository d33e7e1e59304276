# SPDX-License-Identifier: Apache-2.0
"""DeiT, arXiv 2012.12877: ViT with a distillation token."""

from collab.convert.huggingface.families import vit
from collab.convert.huggingface.families.family import LABELS, Family
from collab.convert.huggingface.layouts import DENSE

FAMILY = Family(
  model='vit',
  fields=vit.fields,
  fixed=vit.FIXED,
  architectures=dict(
    DeiTModel=dict(outputs=0, distillation='token'),
    DeiTForImageClassification=dict(outputs=LABELS, distillation='token'),
    DeiTForImageClassificationWithTeacher=dict(
      outputs=LABELS, distillation='head'
    ),
  ),
  prefix='deit',
  body=vit.BODY,
  head=(
    ('classifier', 'head', DENSE, 'DeiTForImageClassification'),
    ('cls_classifier', 'head', DENSE),
    ('distillation_classifier', 'distilled_head', DENSE),
  ),
  rest=('pooler.dense.*',),
)
