# SPDX-License-Identifier: Apache-2.0
"""Qwen3, arXiv 2505.09388: queries and keys have norms instead of biases."""

from collections.abc import Callable

from collab.convert.huggingface.families import decoder, qwen2


def fields(get: Callable) -> dict:
  return decoder.fields(
    get,
    use_bias=get('attention_bias', False),
    qk_norm=True,
    window=qwen2.window(get),
  )


FAMILY = decoder.family(
  'Qwen3',
  fields,
  defaults=qwen2.DEFAULTS | dict(head_dim=128),
  fixed=dict(rms_norm_eps=1e-6),  # it is also that of our qk_norm
)
