# SPDX-License-Identifier: Apache-2.0
"""DistilBERT, arXiv 1910.01108: without types and pooler."""

from collab.convert.huggingface.families.family import (
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
    dim=get('dim'),
    num_layers=get('n_layers'),
    mlp_dim=get('hidden_dim'),
    activation=get('activation', 'gelu'),
    norm='post',
    epsilon=1e-12,
    dropout=get('dropout', 0.1),
    attention_dropout=get('attention_dropout', 0.1),
    activation_dropout=0.0,
    positions='learned',
    max_length=get('max_position_embeddings'),
    first_position=0,
    types=0,
    embed_dim=0,
    shared=False,
    attention=dict(name='mha', num_heads=get('n_heads')),
  )


FAMILY = Family(
  model='encoder',
  fields=fields,
  fixed=dict(pruned_heads={}),
  architectures=heads('DistilBert'),
  prefix='distilbert',
  body=(
    *EMBEDDINGS,
    *layer(
      'transformer.layer.{}',
      'encoder/layer_{}',
      {
        'self_attention/query': ('attention.q_lin', HEADS),
        'self_attention/key': ('attention.k_lin', HEADS),
        'self_attention/value': ('attention.v_lin', HEADS),
        'self_attention/out': ('attention.out_lin', DENSE),
        'self_norm': ('sa_layer_norm', NORM),
        'mlp_in': ('ffn.lin1', DENSE),
        'mlp_out': ('ffn.lin2', DENSE),
        'mlp_norm': ('output_layer_norm', NORM),
      },
    ),
  ),
  head=(
    SPAN,
    ('vocab_transform', 'head/dense', DENSE),
    ('vocab_layer_norm', 'head/norm', NORM),
    ('vocab_projector.bias', 'head/bias', WHOLE),
    ('pre_classifier', 'head/Dense_0', DENSE),
    ('classifier', 'head/Dense_1', DENSE),
  ),
  tied={'vocab_projector.weight': 'embeddings.word_embeddings.weight'},
  rest=('embeddings.position_ids',),
)
