# SPDX-License-Identifier: Apache-2.0
"""Makes one vector of a text, as the files of Sentence Transformers say."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collab import checks, models
from collab.io import json_text

MODULES = 'modules.json'
SETTINGS = 'sentence_bert_config.json'
PROMPTS = 'config_sentence_transformers.json'
LEGAL = ['Transformer', 'Pooling'], ['Transformer', 'Pooling', 'Normalize']
# Before `pooling_mode`, a pooling's config.json had a flag for each mode.
FLAG = 'pooling_mode_'
FLAGS = dict(cls_token='cls', max_tokens='max', mean_tokens='mean')


class Pooling(NamedTuple):
  """A function of an encoder's outputs x_1 ... x_L at the tokens of a text.

  Attributes:
    mode: 'mean' over all tokens, 'cls' (x_1) or 'max' of each feature.
    normalize: whether the result is scaled to length one.
    longest: maximum number of tokens of a text, 0 for as many as fit.
    lower: whether texts are changed to lower case.
  """

  mode: str = 'mean'
  normalize: bool = False
  longest: int = 0
  lower: bool = False

  def __call__(
    self, model: models.Model, params: Mapping, batch: Mapping
  ) -> jax.Array:
    """Computes embeddings, float32 [B, D], by an encoder with any head."""
    body = model.clone(head='none', outputs=0, pooler=False)
    x, _ = body.apply({'params': params}, batch)
    x = x.astype(jnp.float32)
    n = batch['lengths'][:, None]
    real = (jnp.arange(x.shape[1])[None] < n)[..., None]
    if self.mode == 'cls':
      x = x[:, 0]
    elif self.mode == 'max':
      x = jnp.where(real, x, -jnp.inf).max(1)
    else:
      x = jnp.where(real, x, 0).sum(1) / n
    if self.normalize:
      x /= jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return x


def read(files: Mapping[str, bytes]) -> Pooling:
  """Reads the Pooling of a folder; the mean over tokens where it has none.

  Args:
    files: {path in the folder: content}.

  Raises:
    ValueError: a file is damaged, or says what is not supported.
  """
  if MODULES not in files:
    return Pooling()
  with checks.located(MODULES):
    modules = json_text.parse(files[MODULES].decode())
    found = modules if isinstance(modules, list) else [modules]
    kinds = [json_text.field(x, 'type').rpartition('.')[2] for x in found]
    if kinds not in LEGAL:
      raise ValueError(
        f'it has {", ".join(kinds) or "no modules"}; expected Transformer, '
        'Pooling and perhaps Normalize.'
      )
    place = f'{json_text.field(found[1], "path")}/config.json'
  settings, prompts = _object(files, SETTINGS), _object(files, PROMPTS)
  if name := prompts.get('default_prompt_name'):
    raise ValueError(
      f'{PROMPTS} has default_prompt_name={name!r}, which is not supported.'
    )
  if place not in files:
    raise ValueError(f'{place} is missing, which {MODULES} lists.')
  longest = settings.get('max_seq_length')
  if longest is not None:
    json_text.require(settings, SETTINGS, max_seq_length=int)
    with checks.located(SETTINGS):  # as of any row of tokens
      checks.at_least('max_seq_length', longest, 5)
  return Pooling(
    _mode(_object(files, place), place),
    normalize=len(kinds) == 3,
    longest=longest or 0,
    lower=bool(settings.get('do_lower_case')),
  )


def _object(files, name):
  return json_text.parse_object(files[name], name) if name in files else {}


def _mode(config, place):
  """Finds the mode, which has one name or one flag that is set."""
  flags = [k.removeprefix(FLAG) for k in config if k.startswith(FLAG)]
  found = [FLAGS.get(k, k) for k in flags if config[FLAG + k]] or ['mean']
  mode = config.get('pooling_mode', found)
  if isinstance(mode, list) and len(mode) == 1:
    (mode,) = mode
  with checks.located(place):
    checks.one_of('pooling_mode', mode, FLAGS.values())
  return mode
