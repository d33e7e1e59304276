# SPDX-License-Identifier: Apache-2.0
"""BERT, arXiv 1810.04805."""

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
  return dict(
    vocab_size=get('vocab_size'),
    dim=get('hidden_size'),
    num_layers=get('num_hidden_layers'),
    mlp_dim=get('intermediate_size'),
    activation=get('hidden_act', 'gelu'),
    norm='post',
    epsilon=get('layer_norm_eps', 1e-12),
    dropout=get('hidden_dropout_prob', 0.1),
    attention_dropout=get('attention_probs_dropout_prob', 0.1),
    activation_dropout=0.0,
    positions='learned',
    max_length=get('max_position_embeddings'),
    first_position=0,
    types=get('type_vocab_size', 2),
    embed_dim=0,
    shared=False,
    attention=dict(name='mha', num_heads=get('num_attention_heads')),
  )


FIXED = dict(
  position_embedding_type='absolute',
  is_decoder=False,
  add_cross_attention=False,
  pruned_heads={},
)
BODY = (
  *EMBEDDINGS,
  *layer(
    'encoder.layer.{}',
    'encoder/layer_{}',
    {
      'self_attention/query': ('attention.self.query', HEADS),
      'self_attention/key': ('attention.self.key', HEADS),
      'self_attention/value': ('attention.self.value', HEADS),
      'self_attention/out': ('attention.output.dense', DENSE),
      'self_norm': ('attention.output.LayerNorm', NORM),
      'mlp_in': ('intermediate.dense', DENSE),
      'mlp_out': ('output.dense', DENSE),
      'mlp_norm': ('output.LayerNorm', NORM),
    },
  ),
)
POOLER = ('pooler.dense', 'pooler', DENSE)

FAMILY = Family(
  model='encoder',
  fields=fields,
  fixed=FIXED,
  architectures=heads('Bert', 'ForPreTraining'),
  prefix='bert',
  body=(*BODY, POOLER),
  head=(
    SPAN,
    ('cls.predictions.transform.dense', 'head/dense', DENSE),
    ('cls.predictions.transform.LayerNorm', 'head/norm', NORM),
    ('cls.predictions.bias', 'head/bias', WHOLE),
    CLASSIFIER,
  ),
  pooler=True,
  tied={
    'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
    'cls.predictions.decoder.bias': 'cls.predictions.bias',
  },
  rest=('embeddings.position_ids', 'pooler.dense.*', 'cls.seq_relationship.*'),
)
