# SPDX-License-Identifier: Apache-2.0
"""The model families of Hugging Face, by the model_type of their configs."""

import importlib

_TYPES = str.split(
  'bert roberta distilbert albert gpt2 vit deit marian llama mistral qwen2 '
  'qwen3 gemma2 gemma3_text'
)
FAMILIES = {
  name: importlib.import_module(f'{__name__}.{name}').FAMILY for name in _TYPES
}
