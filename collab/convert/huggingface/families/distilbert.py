# SPDX-License-Identifier: Apache-2.0
"""DistilBERT, arXiv 1910.01108: BERT without token types and pooler."""

from collections.abc import Callable

from collab.convert.huggingface.families import encoder
from collab.convert.huggingface.families.family import block
from collab.convert.huggingface.layouts import DENSE

# Maps BERT's names of config.json fields to DistilBERT's.
NAMES = dict(
  hidden_size='dim',
  num_hidden_layers='n_layers',
  num_attention_heads='n_heads',
  intermediate_size='hidden_dim',
  hidden_act='activation',
  hidden_dropout_prob='dropout',
  attention_probs_dropout_prob='attention_dropout',
)


def fields(get: Callable) -> dict:
  named = lambda name, *more, **legal: get(
    NAMES.get(name, name), *more, **legal
  )
  return encoder.fields(named) | dict(epsilon=1e-12, types=0, pooler=False)


FAMILY = encoder.family(
  'DistilBert',
  fields,
  body=block(
    'transformer.layer.{}',
    heads='attention.{letter}_lin',
    out='attention.out_lin',
    self_norm='sa_layer_norm',
    mlp_in='ffn.lin1',
    mlp_out='ffn.lin2',
    mlp_norm='output_layer_norm',
  ),
  lm=(
    'vocab_transform',
    'vocab_layer_norm',
    'vocab_projector',
    'vocab_projector',
  ),
  head=(
    ('pre_classifier', 'head/Dense_0', DENSE),
    ('classifier', 'head/Dense_1', DENSE),
  ),
)
