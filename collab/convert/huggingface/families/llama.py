# SPDX-License-Identifier: Apache-2.0
"""Llama, arXiv 2302.13971, and what has its config: SmolLM2 and others."""

from collections.abc import Callable

from collab.convert.huggingface.families import decoder


def fields(get: Callable) -> dict:
  found = decoder.fields(get, use_bias=get('attention_bias', False))
  return found | dict(use_bias=get('mlp_bias', False))


FAMILY = decoder.family(
  'Llama', fields, defaults=dict(max_position_embeddings=2048)
)
