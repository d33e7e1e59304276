# SPDX-License-Identifier: Apache-2.0
"""The model families of Hugging Face, by the model_type of their configs."""

from collab.convert.huggingface.families import (
  albert,
  bert,
  deit,
  distilbert,
  gpt2,
  marian,
  roberta,
  vit,
)

FAMILIES = dict(
  bert=bert.FAMILY,
  roberta=roberta.FAMILY,
  distilbert=distilbert.FAMILY,
  albert=albert.FAMILY,
  gpt2=gpt2.FAMILY,
  vit=vit.FAMILY,
  deit=deit.FAMILY,
  marian=marian.FAMILY,
)
