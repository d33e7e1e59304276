# SPDX-License-Identifier: Apache-2.0
"""Marian: translators of OPUS-MT, one table for source, target and output."""

from collab.convert.huggingface.families.family import Family, layer
from collab.convert.huggingface.layouts import (
  DENSE,
  FIRST_ROW,
  HEADS,
  NORM,
  TABLE,
)


def fields(get):
  if not get('scale_embedding', False):  # which it is where it is left out
    raise ValueError('scale_embedding is False, expected True.')
  return dict(
    vocab_size=get('vocab_size'),
    dim=get('d_model'),
    encoder_layers=get('encoder_layers'),
    decoder_layers=get('decoder_layers'),
    mlp_dim=get('encoder_ffn_dim'),
    activation=get('activation_function', 'gelu'),
    norm='post',
    epsilon=1e-5,
    dropout=get('dropout', 0.1),
    attention_dropout=get('attention_dropout', 0.0),
    activation_dropout=get('activation_dropout', 0.0),
    positions='sinusoidal_exact',
    max_length=get('max_position_embeddings'),
    attention=dict(name='mha', num_heads=get('encoder_attention_heads')),
    decoder_attention=dict(
      name='mha', num_heads=get('decoder_attention_heads')
    ),
    cross_attention=dict(name='mha', num_heads=get('decoder_attention_heads')),
  )


def _attention(ours, theirs, norm):
  """{ours: (theirs, layout)} of an attention and its norm."""
  rows = {
    f'{ours}/{name}': (f'{theirs}.{name[0]}_proj', HEADS)
    for name in ('query', 'key', 'value')
  }
  return rows | {
    f'{ours}/out': (f'{theirs}.out_proj', DENSE),
    norm: (f'{theirs}_layer_norm', NORM),
  }


_LAYER = _attention('self_attention', 'self_attn', 'self_norm')
_LAYER |= {
  'mlp_in': ('fc1', DENSE),
  'mlp_out': ('fc2', DENSE),
  'mlp_norm': ('final_layer_norm', NORM),
}
_CROSS = _attention('cross', 'encoder_attn', 'cross_norm')

_TABLES = (
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
  'lm_head.weight',
)

FAMILY = Family(
  model='encoder_decoder',
  fields=fields,
  fixed=dict(
    share_encoder_decoder_embeddings=True,
    # Of the checkpoints of 2020, whose configs are BART's:
    normalize_before=False,
    normalize_embedding=False,
    add_final_layer_norm=False,
    add_bias_logits=False,
    static_position_embeddings=True,
  ),
  architectures=dict(
    MarianModel=dict(output_bias=False), MarianMTModel=dict(output_bias=True)
  ),
  prefix='model',
  body=(
    ('shared', 'embed', TABLE),
    *layer('encoder.layers.{}', 'encoder/layer_{}', _LAYER),
    *layer('decoder.layers.{}', 'decoder/layer_{}', _LAYER | _CROSS),
  ),
  head=(('final_logits_bias', 'embed/bias', FIRST_ROW),),
  tied=dict.fromkeys(_TABLES, 'shared.weight'),
  waves=('encoder.embed_positions.weight', 'decoder.embed_positions.weight'),
)
