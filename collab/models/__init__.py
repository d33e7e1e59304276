# SPDX-License-Identifier: Apache-2.0
"""The models: stacks of one Block, composed by what the task needs."""

from collab.models.decoder import Decoder
from collab.models.encoder import Encoder
from collab.models.encoder_decoder import EncoderDecoder
from collab.models.vit import ViT

MODELS = dict(
  encoder=Encoder,
  decoder=Decoder,
  encoder_decoder=EncoderDecoder,
  vit=ViT,
)


def build(name, **fields):
  """A model by name; raises ValueError or TypeError that lists the legal."""
  if name not in list(MODELS):  # it may be anything
    raise ValueError(f'No model {name!r}; there are {", ".join(MODELS)}.')
  return MODELS[name](**fields)
