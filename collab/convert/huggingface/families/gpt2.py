# SPDX-License-Identifier: Apache-2.0
"""GPT-2: causal and pre-norm; its linear layers are not transposed."""

from collections.abc import Callable

from collab.convert.huggingface.families.family import Family
from collab.convert.huggingface.layouts import GPT_DENSE, GPT_HEADS, NORM, TABLE


def fields(get: Callable) -> dict:
  return dict(
    vocab_size=get('vocab_size'),
    dim=get('n_embd'),
    num_layers=get('n_layer'),
    mlp_dim=get('n_inner', 0) or 4 * get('n_embd'),
    activation=get('activation_function', 'gelu_new'),
    norm='pre',
    epsilon=get('layer_norm_epsilon', 1e-5),
    dropout=get('resid_pdrop', 0.1),
    attention_dropout=get('attn_pdrop', 0.1),
    activation_dropout=0.0,
    positions='learned',
    max_length=get('n_positions'),
    attention=dict(name='mha', num_heads=get('n_head')),
  )


FAMILY = Family(
  model='decoder',
  fields=fields,
  fixed=dict(
    scale_attn_weights=True,
    scale_attn_by_inverse_layer_idx=False,
    add_cross_attention=False,
  ),
  architectures=dict(GPT2Model={}, GPT2LMHeadModel={}),
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
  tied={'lm_head.weight': 'wte.weight'},
  rest=('h.*.attn.bias', 'h.*.attn.masked_bias'),
)
