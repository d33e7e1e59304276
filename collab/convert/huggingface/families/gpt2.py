# SPDX-License-Identifier: Apache-2.0
"""GPT-2: causal and pre-norm; its linear layers are not transposed."""

from collections.abc import Callable

from collab.convert.huggingface.families import decoder
from collab.convert.huggingface.families.family import (
  ACTIVATIONS,
  LAYERS,
  RATE,
  Family,
  mha,
)
from collab.convert.huggingface.layouts import (
  DENSE,
  GPT_DENSE,
  GPT_HEADS,
  NORM,
  TABLE,
)


def fields(get: Callable) -> dict:
  return dict(
    vocab_size=get('vocab_size'),
    dim=get('n_embd'),
    num_layers=get('n_layer', legal=LAYERS),
    tied=get('tie_word_embeddings', True),
    mlp_dim=get('n_inner', 0) or 4 * get('n_embd'),
    activation=get('activation_function', 'gelu_new', legal=ACTIVATIONS),
    norm='pre',
    epsilon=get('layer_norm_epsilon', 1e-5),
    dropout=get('resid_pdrop', 0.1, legal=RATE),
    attention_dropout=get('attn_pdrop', 0.1, legal=RATE),
    activation_dropout=0.0,
    positions='learned',
    max_length=get('n_positions'),
    attention=mha(get, 'n_head', get('n_embd')),
  )


FAMILY = Family(
  model='decoder',
  fields=fields,
  fixed=dict(
    scale_attn_weights=True,
    scale_attn_by_inverse_layer_idx=False,
    add_cross_attention=False,
  ),
  architectures=dict(
    GPT2Model=dict(tied=True),
    GPT2LMHeadModel={},
    **{f'GPT2{end}': fields for end, fields in decoder.HEADS.items()},
  ),
  prefix='transformer',
  body=(
    ('wte', 'embed', TABLE),
    ('wpe', 'positions', TABLE),
    ('h.{}.attn.c_attn', 'decoder/layer_{}/self_attention', GPT_HEADS),
    ('h.{}.attn.c_proj', 'decoder/layer_{}/self_attention/out', GPT_DENSE),
    ('h.{}.ln_1', 'decoder/layer_{}/self_norm', NORM),
    ('h.{}.mlp.c_fc', 'decoder/layer_{}/mlp_in', GPT_DENSE),
    ('h.{}.mlp.c_proj', 'decoder/layer_{}/mlp_out', GPT_DENSE),
    ('h.{}.ln_2', 'decoder/layer_{}/mlp_norm', NORM),
    ('ln_f', 'decoder/norm', NORM),
  ),
  head=(
    ('lm_head', 'output', TABLE),
    ('classifier', 'head', DENSE),
    ('score', 'head', DENSE[:1]),
  ),
  tied=(('lm_head.weight', 'wte.weight'),),
  rest=('h.*.attn.bias', 'h.*.attn.masked_bias'),
)
