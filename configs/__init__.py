# SPDX-License-Identifier: Apache-2.0
"""Configs of experiments: a complete config a family, changed by words.

The text after the colon of --config=configs/FILE.py:ARGUMENT is a list of words
in any order: a sub-task, a size, a variant of attention, or key=value for a
field of the attention. Files that fix some of the words are experiments of the
papers.
"""

from collections.abc import Callable, Iterable
import dataclasses
import pathlib
import pkgutil
from typing import NamedTuple

from ml_collections import ConfigDict

from collab import attention, checks
from collab.attention import variants

SIZES = ('sample', 'small')


def _length(c):
  """The most tokens of a sequence; images have up to two that are no patch."""
  if c.model.name != 'vit':
    return c.data.row_length
  return (c.data.image_size // c.model.patch) ** 2 + 2


_MFA = dict(  # one key for all heads, which are twice as wide as those of mha
  query_dim=lambda c: c.model.dim // 3,
  head_width=lambda c: 2 * c.model.dim // c.model.attention.num_heads,
)
# The fields of each variant in configs. A function computes its value from the
# config. Variants that are not listed have no fields.
VARIANTS = {name: {} for name in attention.names()} | dict(
  mha=dict(key_features=0),
  collab=dict(
    shared_dim=lambda c: c.model.dim // 2,
    # As in the papers' encoders: a content bias, and no biases on projections.
    bias='content',
    mixing_init='normal',
  ),
  gqa=dict(kv_heads=2),
  mhe_mul=dict(offset=1.0),
  mla=dict(latent_dim=lambda c: c.model.dim // 4),
  gla=dict(latent_dim=lambda c: c.model.dim // 8 * 2, kv_heads=2),
  gta=dict(kv_heads=2),
  mfa=_MFA,
  mfa_kr=_MFA,
  tpa=dict(rank=2),
  linformer=dict(length=_length, projected_length=64),
)
# Fields of an attention that configs lack unless given, and their types.
OPTIONAL = dict(
  implementation='xla',
  qkv_features=0,
  kv_heads=0,
  embedding_std=0.02,
  gate='none',
  soft_cap=30.0,
  fold=False,
  mixing='real',
  spectrum='head',
)
BOOL = dict(true=True, false=False)


def check(config: str) -> None:
  """Raises a ValueError that lists our configs if the file does not exist."""
  path = config.partition(':')[0]
  if not pathlib.Path(path).is_file():
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    raise ValueError(
      f'--config={path}: No such file; configs/ has {", ".join(names)}.'
    )


def base() -> ConfigDict:
  """Makes the fields that all families share, without task and data.

  A family adds its own fields and changes those in which it differs.
  """
  c = ConfigDict()
  c.model = dict(
    dim=768,
    mlp_dim=3072,
    activation='gelu',
    norm='pre',
    dropout=0.1,
    attention_dropout=0.0,
    activation_dropout=0.0,
    scan=False,
    remat='none',
    dtype='float32',
    attention=dict(name='mha', num_heads=12),
  )
  c.optim = dict(
    name='adamw', end_lr=0.0, b1=0.9, clip=1.0, ema=0.0, layer_decay=1.0
  )
  c.accumulate = 1  # micro-batches of an update
  c.fsdp = 1  # devices over which the state is split
  c.tensor = 1  # devices over which heads, MLPs and vocabulary are split
  c.rules = ''  # of that, other than in collab/models/axes.py: 'vocabulary='
  c.skip_nonfinite = 0  # bad steps (NaN, infinity) that the whole run may skip
  # The newest `keep` checkpoints and the best one by a metric (- if lower is
  # better) stay. At the end, final='best' evaluates the best one; 'last' the
  # moving average or, without optim.ema, the mean of the newest `average`.
  c.checkpoint = dict(keep=3, best='-val/nll', average=1, final='best')
  c.seed = 0
  c.init_from = ''  # workdir of a run to initialise parameters from
  c.wandb = ''  # project at Weights & Biases
  return c


class Words(NamedTuple):
  """The words of a config's argument.

  Attributes:
    subtask: '' in a family without sub-tasks.
    model: '' in a family without models.
    size: '' for the paper's size.
    variant: variant of attention, mha by default.
    fields: {key: value, as text} of the attention.
    others: {kind: word} of the kinds that only this family has.
  """

  subtask: str
  model: str
  size: str
  variant: str
  fields: dict
  others: dict


def parse(
  argument: str,
  subtasks: Iterable[str] = (),
  models: Iterable[str] = (),
  sizes: Iterable[str] = SIZES,
  **others: Iterable[str],
) -> Words:
  """Reads a config's argument: words in any order, separated by commas.

  Args:
    argument: e.g. 'mnli,mhe_mul,small,num_heads=8'.
    subtasks: names of the sub-tasks; the first is the default.
    models: names of the models; the first is the default.
    sizes: names of the sizes.
    **others: {kind: words} of this family alone; the first is the default.

  Returns:
    Words.

  Raises:
    ValueError: there is an unknown word, or two of a kind; the message lists
      the legal ones.
  """
  kinds = dict.fromkeys(subtasks, 'sub-task') | dict.fromkeys(models, 'model')
  kinds |= dict.fromkeys(sizes, 'size') | dict.fromkeys(VARIANTS, 'variant')
  for kind, legal in others.items():
    kinds |= dict.fromkeys(legal, kind)
  fields, chosen = {}, {}
  for word in filter(None, argument.split(',')):
    key, equals, value = word.partition('=')
    if equals:
      if key in fields:
        raise ValueError(f'The argument has two of {key}.')
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
    {kind: chosen.get(kind, next(iter(x))) for kind, x in others.items()},
  )


def fixed(get_config: Callable, word: str) -> Callable:
  """Makes the get_config of a file that fixes one of a family's words."""
  return lambda argument='': get_config(f'{word},{argument}')


def attend(c: ConfigDict, words: Words, **own: dict) -> ConfigDict:
  """Sets the attention of a config whose task and size are set.

  Args:
    c: the config, whose attention has the fields that all variants share.
    words: Words. In `fields`, a list with slashes, shared_dim=96/64/64, has a
      value for each layer.
    **own: {variant: fields} where a family differs from `VARIANTS`.

  Returns:
    c.

  Raises:
    ValueError: this attention does not have a field, or its type is wrong.
  """
  name, fields = words.variant, words.fields
  found = c.model.attention.to_dict() | dict(name=name)
  given = VARIANTS[name] | own.get(name, {})
  found |= {k: x(c) if callable(x) else x for k, x in given.items()}
  layer = variants.variant(name)
  has = {field.name for field in dataclasses.fields(layer)}
  known = found | {k: x for k, x in OPTIONAL.items() if k in has} | found
  for key, text in fields.items():
    legal = [
      k for k, x in known.items() if k != 'name' and not isinstance(x, dict)
    ]
    if key not in legal:
      raise ValueError(
        f'The argument has {key}={text}; {name} has {", ".join(legal)}.'
      )
    kind = type(known[key])
    make = BOOL.__getitem__ if kind is bool else kind
    where = f'The argument has {key}={text}, expected {kind.__name__}'
    with checks.located(where, (ValueError, KeyError)):
      values = tuple(map(make, text.split('/')))
    found[key] = values if len(values) > 1 else values[0]
  c.model.attention = found
  return c
