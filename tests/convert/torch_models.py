# SPDX-License-Identifier: Apache-2.0
"""Models of Transformers with random parameters, for golden files and tests."""

import torch
import transformers

V, L, C = 37, 10, 2
LENGTHS = (10, 4, 1, 7)


def make(name, config):
  """The model of this class, in evaluation mode, with random parameters.

  Everywhere: as they are initialised, biases are 0 and norms 1, which hides
  mistakes.
  """
  model = getattr(transformers, name)(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.requires_grad:  # Marian's sinusoids are none of those
        parameter.copy_(torch.randn(parameter.shape) * 0.3)
        if parameter.dim() == 1:
          parameter.add_(0.5)
        # Of half precision, as released, for Gemma's 1 + w.
        if name.startswith('Gemma'):
          parameter.copy_(parameter.bfloat16())
    if name.endswith('MTModel'):
      model.final_logits_bias.normal_()
  return model


def make_inputs(model):
  """Of the model's call: random tokens or images, padded on the right."""
  config = model.config
  if model.main_input_name == 'pixel_values':
    side = config.image_size
    return dict(pixel_values=torch.randn(4, config.num_channels, side, side))
  lengths = torch.tensor(LENGTHS)
  if type(model).__name__.endswith('ForMultipleChoice'):
    lengths = lengths.reshape(-1, C)
  mask = (torch.arange(L) < lengths[..., None]).long()
  # No token but padding is the one that RoBERTa takes for padding.
  tokens = torch.randint(3, V - 1, mask.shape)
  padding = config.pad_token_id if config.pad_token_id is not None else 0
  tokens = torch.where(mask == 1, tokens, padding)
  inputs = dict(input_ids=tokens, attention_mask=mask)
  if (types := getattr(config, 'type_vocab_size', 1)) > 1:
    inputs['token_type_ids'] = torch.randint(0, types, mask.shape)
  if config.is_encoder_decoder:
    most = config.decoder_vocab_size - 1
    inputs['decoder_input_ids'] = torch.randint(3, most, (4, L - 2))
  return inputs


def run(model, inputs):
  """What the model makes of inputs: dict(logits=...) or dict(hidden=...)."""
  with torch.no_grad():
    found = model(**inputs)
  if 'start_logits' in found:
    return dict(logits=torch.stack([found.start_logits, found.end_logits], -1))
  for name in ('logits', 'prediction_logits'):
    if name in found:
      return dict(logits=found[name])
  outputs = dict(hidden=found.last_hidden_state)
  if found.get('pooler_output') is not None:
    outputs['pooled'] = found.pooler_output
  return outputs


def rounding(model, inputs):
  """How far a model's own outputs are from those that it has in float64.

  It makes the model one of float64. Padding that sees nothing may be NaN.
  """
  double = lambda x: x.double() if x.is_floating_point() else x
  exact = {name: double(x) for name, x in inputs.items()}
  pairs = zip(
    run(model, inputs).values(),
    run(model.double(), exact).values(),
    strict=True,
  )
  return max(float((x - y).abs().nan_to_num().max()) for x, y in pairs)
