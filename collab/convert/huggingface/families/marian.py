# SPDX-License-Identifier: Apache-2.0
"""Marian, OPUS-MT's translators."""

from collections.abc import Callable

from collab.convert.huggingface.families.family import (
  ACTIVATIONS,
  LAYERS,
  RATE,
  Family,
  attention,
  block,
  mha,
)
from collab.convert.huggingface.layouts import FIRST_ROW, TABLE, within


def fields(get: Callable) -> dict:
  dim, of_encoder = get('d_model'), get('encoder_ffn_dim')
  of_decoder = get('decoder_ffn_dim', of_encoder)
  mha_of_decoder = mha(get, 'decoder_attention_heads', dim)
  return _tables(get) | dict(
    dim=dim,
    encoder_layers=get('encoder_layers', legal=LAYERS),
    decoder_layers=get('decoder_layers', legal=LAYERS),
    mlp_dim=of_encoder,
    decoder_mlp_dim=0 if of_decoder == of_encoder else of_decoder,
    activation=get('activation_function', 'gelu', legal=ACTIVATIONS),
    norm='post',
    epsilon=1e-5,
    dropout=get('dropout', 0.1, legal=RATE),
    attention_dropout=get('attention_dropout', 0.0, legal=RATE),
    activation_dropout=get('activation_dropout', 0.0, legal=RATE),
    positions='sinusoidal_exact',
    max_length=get('max_position_embeddings'),
    attention=mha(get, 'encoder_attention_heads', dim),
    decoder_attention=mha_of_decoder,
    cross_attention=mha_of_decoder,
  )


def _tables(get):
  """Reads the fields of the embeddings: one table for all, two or three."""
  V, tied = get('vocab_size'), get('tie_word_embeddings', True)
  found = dict(tied=tied, scaled=get('scale_embedding', False))
  if not get('share_encoder_decoder_embeddings', True):
    target = get('decoder_vocab_size', 0) or V
    return found | dict(vocab_size=target, source_vocab_size=V)
  if not tied:
    raise ValueError(
      'tie_word_embeddings is False, expected True where '
      'share_encoder_decoder_embeddings is True.'
    )
  return found | dict(vocab_size=V, source_vocab_size=0)


# Tables of their own; else one is shared.
_APART = (
  *within('encoder.embed_tokens', 'source_embed', TABLE),
  *within('decoder.embed_tokens', 'embed', TABLE),
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
    # The checkpoints of 2020 have BART's configs, with these fields:
    normalize_before=False,
    normalize_embedding=False,
    add_final_layer_norm=False,
    add_bias_logits=False,
    static_position_embeddings=True,
  ),
  architectures=dict(
    MarianModel=dict(output_bias=False, tied=True),
    MarianMTModel=dict(output_bias=True),
  ),
  prefix='model',
  body=(
    ('', '', _APART),
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
  head=(
    ('final_logits_bias', 'embed/bias', FIRST_ROW),
    ('final_logits_bias', 'output/bias', FIRST_ROW),
    ('lm_head', 'output', TABLE),
  ),
  tied=(
    ('encoder.embed_tokens.weight', 'shared.weight'),
    ('decoder.embed_tokens.weight', 'shared.weight'),
    ('lm_head.weight', 'shared.weight'),
    ('lm_head.weight', 'decoder.embed_tokens.weight'),
  ),
  waves=('encoder.embed_positions.weight', 'decoder.embed_positions.weight'),
)
