# SPDX-License-Identifier: Apache-2.0
"""RoBERTa, arXiv 1907.11692: BERT whose first position is the third."""

from collab.convert.huggingface.families import bert
from collab.convert.huggingface.families.family import (
  CLASSIFIER,
  SPAN,
  Family,
  heads,
)
from collab.convert.huggingface.layouts import DENSE, NORM, WHOLE


def fields(get):
  return bert.fields(get) | dict(first_position=get('pad_token_id', 1) + 1)


_OF_CLASSES = 'RobertaForSequenceClassification'

FAMILY = Family(
  model='encoder',
  fields=fields,
  fixed=bert.FIXED | dict(hidden_act='gelu'),  # its MLM head has no other
  architectures=heads('Roberta'),
  prefix='roberta',
  body=(*bert.BODY, bert.POOLER),
  head=(
    SPAN,
    ('lm_head.dense', 'head/dense', DENSE),
    ('lm_head.layer_norm', 'head/norm', NORM),
    ('lm_head.bias', 'head/bias', WHOLE),
    # Its head for classes is a pooler by another name and a linear map.
    ('classifier.dense', 'pooler', DENSE, _OF_CLASSES),
    ('classifier.out_proj', 'head/Dense_0', DENSE, _OF_CLASSES),
    CLASSIFIER,
  ),
  pooler=True,
  tied={
    'lm_head.decoder.weight': 'embeddings.word_embeddings.weight',
    'lm_head.decoder.bias': 'lm_head.bias',
  },
  rest=('embeddings.position_ids', 'pooler.dense.*'),
)
