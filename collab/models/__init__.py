# SPDX-License-Identifier: Apache-2.0
"""The models: stacks of one Block, composed by what the task needs."""

from collab.models.encoder_decoder import EncoderDecoder

MODELS = {'encoder_decoder': EncoderDecoder}


def build(name, **fields):
  """A model by name; raises ValueError or TypeError that lists the legal."""
  if name not in MODELS:
    raise ValueError(f'No model {name!r}; there are {", ".join(MODELS)}.')
  return MODELS[name](**fields)
