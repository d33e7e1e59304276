# SPDX-License-Identifier: Apache-2.0
"""Continues prompts by a language model."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from collab import decoding, models
from collab.data.tokenizer import Tokenizer


class Continuation(NamedTuple):
  """Decodes after prompts, a function of tasks.Pass; equal ones compile once.

  Attributes:
    words, length, temperature, top_k, top_p: see `Run.generate`.
  """

  words: Tokenizer
  length: int
  temperature: float
  top_k: int
  top_p: float

  def __call__(
    self, model: models.Model, params: Mapping, batch: Mapping
  ) -> decoding.Decoded:
    """Decodes [B, length] after prompts [B, P]."""
    B, P = batch['tokens'].shape
    decode, random = decoding.greedy, {}
    if self.temperature:
      decode = decoding.sample
      random = dict(
        keys=jax.random.wrap_key_data(batch['keys']),
        temperature=self.temperature,
        top_k=self.top_k,
        top_p=self.top_p,
      )
    return decode(
      decoding.step_of(model, params),
      decoding.empty_cache(model, B, P + self.length - 1),
      batch['tokens'],
      prompt_lengths=batch['lengths'],
      eos=self.words.eos_id,
      pad=self.words.pad_id,
      max_length=self.length,
      **random,
    )
