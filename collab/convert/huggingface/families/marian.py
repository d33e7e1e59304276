# SPDX-License-Identifier: Apache-2.0
"""Marian, OPUS-MT's translators: one table for source, target and output."""

from collections.abc import Callable

from collab.convert.huggingface.families.family import Family, attention, block
from collab.convert.huggingface.layouts import FIRST_ROW, TABLE


def fields(get: Callable) -> dict:
  if not get('scale_embedding', False):  # the default is False
    raise ValueError('scale_embedding is False, expected True.')
  of_decoder = dict(name='mha', num_heads=get('decoder_attention_heads'))
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
    decoder_attention=of_decoder,
    cross_attention=of_decoder,
  )


_BLOCK = dict(
  heads='self_attn.{letter}_proj',
  out='self_attn.out_proj',
  self_norm='self_attn_layer_norm',
  mlp_in='fc1',
  mlp_out='fc2',
  mlp_norm='final_layer_norm',
)

FAMILY = Family(
  model='encoder_decoder',
  fields=fields,
  fixed=dict(
    share_encoder_decoder_embeddings=True,
    # The checkpoints of 2020 have BART's configs, with these fields:
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
    *block('encoder.layers.{}', **_BLOCK),
    *block(
      'decoder.layers.{}',
      'decoder/layer_{}',
      **_BLOCK,
      cross_norm='encoder_attn_layer_norm',
    ),
    *attention(
      'decoder.layers.{}.encoder_attn',
      'decoder/layer_{}/cross',
      heads='{letter}_proj',
      out='out_proj',
    ),
  ),
  head=(('final_logits_bias', 'embed/bias', FIRST_ROW),),
  tied={
    'encoder.embed_tokens.weight': 'shared.weight',
    'decoder.embed_tokens.weight': 'shared.weight',
    'lm_head.weight': 'shared.weight',
  },
  waves=('encoder.embed_positions.weight', 'decoder.embed_positions.weight'),
)
