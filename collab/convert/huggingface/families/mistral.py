# SPDX-License-Identifier: Apache-2.0
"""Mistral, arXiv 2310.06825: Llama, perhaps with a sliding window."""

from collections.abc import Callable

from collab.convert.huggingface.families import decoder


def fields(get: Callable) -> dict:
  return decoder.fields(get, window=get('sliding_window', 0) or None)


FAMILY = decoder.family(
  'Mistral',
  fields,
  defaults=dict(
    num_key_value_heads=8, max_position_embeddings=2**17, sliding_window=4096
  ),
)
