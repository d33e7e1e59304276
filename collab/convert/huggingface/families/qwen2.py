# SPDX-License-Identifier: Apache-2.0
"""Qwen2, arXiv 2407.10671: Llama with biases of queries, keys and values."""

from collections.abc import Callable

from collab.convert.huggingface.families import decoder

DEFAULTS = dict(
  num_key_value_heads=32,
  max_position_embeddings=2**15,
  sliding_window=4096,
  max_window_layers=28,
)


def fields(get: Callable) -> dict:
  return decoder.fields(
    get, use_bias=True, use_out_bias=False, window=window(get)
  )


def window(get: Callable) -> int | tuple | None:
  size = get('use_sliding_window', False) and get('sliding_window', 0)
  first = get('max_window_layers', 0)
  types = decoder.layer_types(get, lambda i: bool(size) and i >= first)
  return decoder.windows(types, size)


FAMILY = decoder.family('Qwen2', fields, defaults=DEFAULTS)
