# SPDX-License-Identifier: Apache-2.0
"""Experiments: a complete base a family, thin files that change attention.

What follows the colon of --config=configs/FILE.py:ARGUMENT is a list of words:
a sub-task, a size, or key=value for a field of the attention.
"""

import dataclasses

from collab.attention import variants

SIZES = ('sample', 'small')
# Fields of an attention that are in no config unless given, and their types.
OPTIONAL = dict(flash=True, qkv_features=0, embedding_std=0.02)


def parse(argument, subtasks=()):
  """The words of a config's argument, in any order, separated by commas.

  Args:
    argument: e.g. 'mnli,small,shared_dim=64'.
    subtasks: names of which the first is the default; () for a family of one.

  Returns:
    sub-task, size ('' is that of the paper), {key: value, as text}.

  Raises:
    ValueError: an unknown word, or two of a kind; it lists the legal ones.
  """
  fields, chosen = {}, {}
  for word in filter(None, argument.split(',')):
    key, equals, value = word.partition('=')
    if equals:
      fields[key] = value
      continue
    kind = 'size' if word in SIZES else 'sub-task'
    if word not in (*SIZES, *subtasks):
      legal = ', '.join([*subtasks, *SIZES, 'KEY=VALUE (of the attention)'])
      raise ValueError(f'The argument has {word!r}; there are {legal}.')
    if kind in chosen:
      raise ValueError(
        f'The argument has two of a {kind}: {chosen[kind]} and {word}.'
      )
    chosen[kind] = word
  default = subtasks[0] if subtasks else ''
  return chosen.get('sub-task', default), chosen.get('size', ''), fields


def attend(c, attention, fields):
  """Sets the attention of a config that has its task and size.

  Args:
    c: the config.
    attention: dict of name and fields; a function is a value that depends on c;
      num_heads is that of c unless given.
    fields: {key: text} from the argument, over those of `attention`; a list
      with slashes, shared_dim=96/64/64, has a value for each layer.

  Returns:
    c.

  Raises:
    ValueError: a field that this attention does not have, or of another type.
  """
  heads = dict(num_heads=c.model.attention.num_heads)
  found = heads | {k: x(c) if callable(x) else x for k, x in attention.items()}
  layer = variants.variant('gqa' if found['name'] == 'mqa' else found['name'])
  has = {field.name for field in dataclasses.fields(layer)}
  known = found | {k: x for k, x in OPTIONAL.items() if k in has} | found
  for key, text in fields.items():
    legal = [name for name in known if name != 'name']
    if key not in legal:
      raise ValueError(
        f'The argument has {key}={text}; {found["name"]} has '
        f'{", ".join(legal)}.'
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
