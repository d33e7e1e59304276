# SPDX-License-Identifier: Apache-2.0
"""Gemma 3's decoder, arXiv 2503.19786: positions by the type of a layer."""

from collections.abc import Callable

from collab import checks
from collab.convert.huggingface.families import decoder, gemma2
from collab.convert.huggingface.layouts import SHIFTED

CLASSES = 'ForSequenceClassification'


def fields(get: Callable) -> dict:
  every = get('sliding_window_pattern', 6)
  checks.at_least('sliding_window_pattern', every, 1)
  types = decoder.layer_types(get, lambda i: (i + 1) % every > 0)
  given = get('rope_parameters', {})
  for name, value in given.items():
    checks.one_of('rope_parameters', name, (decoder.FULL, decoder.SLIDING))
    if not isinstance(value, dict | None):
      raise ValueError(f'rope_parameters.{name} is {value!r}, expected dict.')
  full = (given.get(decoder.FULL) or {}) | get('rope_scaling', {})
  near = given.get(decoder.SLIDING) or {}
  for name, value in ((decoder.FULL, full), (decoder.SLIDING, near)):
    # Of a type of layers, Transformers does not read it (5.24), and truncates.
    if (got := value.get('truncate', True)) not in (True, None):
      raise ValueError(
        f'rope_parameters.{name}.truncate is {got!r}, expected True.'
      )
  ropes = {
    decoder.FULL: decoder.rope(get, full, get('rope_theta', 1e6)),
    decoder.SLIDING: decoder.rope(get, near, get('rope_local_base_freq', 1e4)),
  }
  rope = tuple(ropes[kind] for kind in types)
  return gemma2.shared(get, types, qk_norm=True, rope=rope)


FAMILY = decoder.family(
  'Gemma3',
  fields,
  defaults=gemma2.DEFAULTS | dict(max_position_embeddings=2**17),
  fixed=gemma2.FIXED | dict(rms_norm_eps=1e-6, attn_logit_softcapping=None),
  modules=gemma2.MODULES,
  norm=SHIFTED,
  body='TextModel',
  heads={f'Text{CLASSES}': decoder.HEADS[CLASSES]},
)
