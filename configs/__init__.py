# SPDX-License-Identifier: Apache-2.0
"""Experiments: a complete config for each family, changed by words.

What follows the colon of --config=configs/FILE.py:ARGUMENT is a list of words,
in any order: a sub-task, a size, a variant of attention, or key=value for a
field of the attention. The files that set some of the words are experiments of
the papers.
"""

import dataclasses
import pathlib
import pkgutil
from typing import NamedTuple

from collab import attention
from collab.attention import variants

SIZES = ('sample', 'small')
# The fields of a variant in configs; a function is a value that depends on the
# config. Variants that are not here have none.
VARIANTS = {name: {} for name in attention.names()} | dict(
  mha=dict(key_features=0),
  collab=dict(
    shared_dim=lambda c: c.model.dim // 2,
    # The papers' encoders: the content bias, none on the shared projections.
    bias='content',
    mixing_init='normal',
  ),
  gqa=dict(kv_heads=2),
  mhe_mul=dict(offset=1.0),
  mla=dict(latent_dim=lambda c: c.model.dim // 4),
)
# Fields of an attention that are in no config unless given, and their types.
OPTIONAL = dict(flash=True, qkv_features=0, embedding_std=0.02)


def check(config):
  """Refuses a --config=FILE:ARGUMENT of no file; the message lists ours."""
  path = config.partition(':')[0]
  if not pathlib.Path(path).is_file():
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    raise ValueError(
      f'--config={path}: No such file; configs/ has {", ".join(names)}.'
    )


class Words(NamedTuple):
  """What an argument says.

  Attributes:
    subtask: '' of a family without sub-tasks.
    model: '' of a family without models.
    size: '' is that of the paper.
    variant: of attention, mha unless said.
    fields: {key: value, as text} of the attention.
  """

  subtask: str
  model: str
  size: str
  variant: str
  fields: dict


def parse(argument, subtasks=(), models=()):
  """The words of a config's argument, in any order, separated by commas.

  Args:
    argument: e.g. 'mnli,mhe_mul,small,num_heads=8'.
    subtasks: names of which the first is the default.
    models: likewise.

  Returns:
    Words.

  Raises:
    ValueError: an unknown word, or two of a kind; it lists the legal ones.
  """
  kinds = {
    **dict.fromkeys(subtasks, 'sub-task'),
    **dict.fromkeys(models, 'model'),
    **dict.fromkeys(SIZES, 'size'),
    **dict.fromkeys(VARIANTS, 'variant'),
  }
  fields, chosen = {}, {}
  for word in filter(None, argument.split(',')):
    key, equals, value = word.partition('=')
    if equals:
      fields[key] = value
      continue
    if word not in kinds:
      legal = ', '.join([*kinds, 'KEY=VALUE (of the attention)'])
      raise ValueError(f'The argument has {word!r}; there are {legal}.')
    kind = kinds[word]
    if kind in chosen:
      raise ValueError(
        f'The argument has two of a {kind}: {chosen[kind]} and {word}.'
      )
    chosen[kind] = word
  return Words(
    chosen.get('sub-task', next(iter(subtasks), '')),
    chosen.get('model', next(iter(models), '')),
    chosen.get('size', ''),
    chosen.get('variant', 'mha'),
    fields,
  )


def attend(c, words, **own):
  """Sets the attention of a config that has its task and size.

  Args:
    c: the config, whose attention has num_heads.
    words: Words; in `fields` a list with slashes, shared_dim=96/64/64, has a
      value for each layer.
    **own: {variant: fields} in which a family differs from `VARIANTS`.

  Returns:
    c.

  Raises:
    ValueError: a field that this attention does not have, or of another type.
  """
  name, fields = words.variant, words.fields
  found = dict(name=name, num_heads=c.model.attention.num_heads)
  given = VARIANTS[name] | own.get(name, {})
  found |= {k: x(c) if callable(x) else x for k, x in given.items()}
  layer = variants.variant(name)
  has = {field.name for field in dataclasses.fields(layer)}
  known = found | {k: x for k, x in OPTIONAL.items() if k in has} | found
  for key, text in fields.items():
    legal = [key for key in known if key != 'name']
    if key not in legal:
      raise ValueError(
        f'The argument has {key}={text}; {name} has {", ".join(legal)}.'
      )
    kind = type(known[key])
    read = _bool if kind is bool else kind
    try:
      values = tuple(map(read, text.split('/')))
      found[key] = values if len(values) > 1 else values[0]
    except ValueError as e:
      raise ValueError(
        f'The argument has {key}={text}, expected {kind.__name__}.'
      ) from e
  c.model.attention = found
  return c


def _bool(text):
  if text not in ('True', 'False'):
    raise ValueError(text)
  return text == 'True'
