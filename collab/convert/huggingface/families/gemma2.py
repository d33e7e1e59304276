# SPDX-License-Identifier: Apache-2.0
"""Gemma 2, arXiv 2408.00118: norms also behind, soft caps, windows by turns."""

from collections.abc import Callable, Sequence
from typing import Any

from collab.convert.huggingface.families import decoder
from collab.convert.huggingface.layouts import SHIFTED

DEFAULTS = dict(
  num_key_value_heads=4,
  head_dim=256,
  max_position_embeddings=8192,
  hidden_activation='gelu_pytorch_tanh',
  tie_word_embeddings=True,
  query_pre_attn_scalar=256,
  sliding_window=4096,
)
FIXED = dict(use_bidirectional_attention=False)
MODULES = decoder.MODULES | dict(
  self_out_norm='post_attention_layernorm',
  mlp_norm='pre_feedforward_layernorm',
  mlp_out_norm='post_feedforward_layernorm',
)


def fields(get: Callable) -> dict:
  types = decoder.layer_types(get, lambda i: i % 2 == 0)
  return shared(get, types, soft_cap=_cap(get('attn_logit_softcapping', 0.0)))


def shared(get: Callable, types: Sequence[str], **attention: Any) -> dict:
  """Reads the fields that Gemma 3 has as well.

  Args:
    get: see `Family`.
    types: of decoder.layer_types.
    **attention: further fields of the attention.
  """
  found = decoder.fields(
    get,
    'hidden_activation',
    use_bias=get('attention_bias', False),
    scale=get('query_pre_attn_scalar') ** -0.5,
    window=decoder.windows(types, get('sliding_window', 0)),
    **attention,
  )
  cap = _cap(get('final_logit_softcapping', 0.0))
  return found | dict(norm='both', scaled=True, soft_cap=cap)


def _cap(value):
  return value or None


FAMILY = decoder.family(
  'Gemma2',
  fields,
  defaults=DEFAULTS
  | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
  fixed=FIXED,
  modules=MODULES,
  norm=SHIFTED,
)
