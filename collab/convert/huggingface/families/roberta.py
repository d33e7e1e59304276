# SPDX-License-Identifier: Apache-2.0
"""RoBERTa, arXiv 1907.11692: BERT with positions that start at 2."""

from collections.abc import Callable

from collab.convert.huggingface.families import bert, encoder
from collab.convert.huggingface.families.family import Family
from collab.convert.huggingface.layouts import DENSE


def fields(get: Callable) -> dict:
  return encoder.fields(get) | dict(first_position=get('pad_token_id', 1) + 1)


def family(name: str) -> Family:
  """Makes the Family whose architectures begin with this name."""
  of_classes = f'{name}ForSequenceClassification'
  return encoder.family(
    name,
    fields,
    fixed=bert.FIXED | dict(hidden_act='gelu'),  # its MLM head has no other
    body=bert.BODY,
    lm=('lm_head.dense', 'lm_head.layer_norm', 'lm_head', 'lm_head.decoder'),
    head=(
      # The classification head is a pooler by another name, and a linear map.
      ('classifier.dense', 'pooler', DENSE, of_classes),
      ('classifier.out_proj', 'head/Dense_0', DENSE, of_classes),
      encoder.CLASSIFIER,
    ),
    rest=('pooler.dense.*',),
    prefix='roberta',
  )


FAMILY = family('Roberta')
