# SPDX-License-Identifier: Apache-2.0
"""ALBERT, arXiv 1909.11942: all layers share parameters, small embeddings."""

from collections.abc import Callable

from collab.convert.huggingface.families import bert, encoder
from collab.convert.huggingface.families.family import LAYERS, block
from collab.convert.huggingface.layouts import DENSE


def fields(get: Callable) -> dict:
  found = encoder.fields(get, dropout=0.0)
  N, inner = found['num_layers'], _inner(get)
  groups = get('num_hidden_groups', 1, legal=(1, N + 1))
  own = dict(shared=True)
  if groups * inner > 1:
    order = [
      int(n / (N / groups)) * inner + i for n in range(N) for i in range(inner)
    ]
    own = dict(num_layers=len(order), order=tuple(order))
  return found | own | dict(embed_dim=get('embedding_size'))


def number(get: Callable, n: int) -> str:
  """Names a layer by its group and its number there."""
  group, i = divmod(n, _inner(get))
  return f'{group}.albert_layers.{i}'


def _inner(get):
  return get('inner_group_num', 1, legal=LAYERS)


FAMILY = encoder.family(
  'Albert',
  fields,
  fixed=bert.FIXED,
  defaults=dict(hidden_act='gelu_new'),
  body=(
    ('encoder.embedding_hidden_mapping_in', 'embed_project', DENSE),
    *block(
      'encoder.albert_layer_groups.{}',
      heads='attention.{name}',
      out='attention.dense',
      self_norm='attention.LayerNorm',
      mlp_in='ffn',
      mlp_out='ffn_output',
      mlp_norm='full_layer_layer_norm',
    ),
    ('pooler', 'pooler', DENSE),
  ),
  lm=(
    'predictions.dense',
    'predictions.LayerNorm',
    'predictions',
    'predictions.decoder',
  ),
  more=('ForPreTraining',),
  rest=('pooler.weight', 'pooler.bias', 'sop_classifier.*'),
)._replace(number=number)
