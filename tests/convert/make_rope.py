# SPDX-License-Identifier: Apache-2.0
"""Makes tests/convert/rope with Transformers' own Llama.

  pip install '.[parity]'
  python -m tests.convert.make_rope

A file is a tiny model with random parameters everywhere, tokens and their
logits. Its metadata has the config. Rows are longer than the lengths that the
scalings start from.
"""

import json
import pathlib

from safetensors.torch import save_file
import torch
import transformers

from tests.convert import torch_models

FOLDER = pathlib.Path(__file__).parent / 'rope'
B, L, V = 2, 19, 37
LLAMA = dict(
  vocab_size=V,
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=17,
  max_position_embeddings=24,
  rms_norm_eps=1e-3,
)
FIRST = dict(rope_theta=100.0, factor=3.0, original_max_position_embeddings=8)
CASES = dict(
  llama3=(
    FIRST | dict(rope_type='llama3', low_freq_factor=1.0, high_freq_factor=4.0),
    dict(tie_word_embeddings=True),
  ),
  linear=(dict(rope_type='linear', rope_theta=100.0, factor=3.0), {}),
  yarn=(FIRST | dict(rope_type='yarn'), {}),
)


def make(case: str) -> None:
  """Makes the file of one case."""
  rope, fields = CASES[case]
  torch.manual_seed(0)
  config = transformers.LlamaConfig(**LLAMA | fields, rope_parameters=rope)
  model = torch_models.make('LlamaForCausalLM', config)
  tokens = torch.randint(0, V, (B, L))
  logits = torch_models.run(model, dict(input_ids=tokens))['logits']
  tensors = dict(model.named_parameters()) | dict(tokens=tokens, logits=logits)
  tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
  kept = config.to_dict()
  kept = {name: kept[name] for name in (*LLAMA, *fields, 'rope_parameters')}
  metadata = dict(config=json.dumps(kept))
  save_file(tensors, FOLDER / f'{case}.safetensors', metadata)


def main() -> None:
  FOLDER.mkdir(exist_ok=True)
  for case in CASES:
    make(case)


if __name__ == '__main__':
  main()
