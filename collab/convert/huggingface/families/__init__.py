# SPDX-License-Identifier: Apache-2.0
"""The model families of Hugging Face, by the model_type of their configs."""

import importlib

_TYPES = str.split(
  'bert roberta xlm-roberta camembert distilbert albert gpt2 vit deit dinov2 '
  'marian llama mistral qwen2 qwen3 gemma2 gemma3_text'
)
_modules = {
  name: importlib.import_module(f'{__name__}.{name.replace("-", "_")}')
  for name in _TYPES
}
FAMILIES = {name: module.FAMILY for name, module in _modules.items()}
