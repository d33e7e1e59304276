# SPDX-License-Identifier: Apache-2.0
"""Configs of experiments: a complete config a family, changed by words.

The text after the colon of --config=configs/FILE.py:ARGUMENT is a list of words
in any order: a sub-task, a size, a variant of attention, or key=value for a
field of the attention. Files that fix some of the words are experiments of the
papers.
"""

from collections.abc import Callable, Iterable
import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from collab import attention, catalog, checks
from collab.attention import variants

SIZES = dict(
  sample='A small model on data that is bundled: minutes.',
  small='A model for one CPU, on data of data.path or TFDS.',
  smoke='`sample` for 20 steps, to see that all runs: about a minute.',
)


def _length(c):
  """The most tokens of a sequence; images have up to two that are no patch."""
  if c.model.name != 'vit':
    return c.data.row_length
  return (c.data.image_size // c.model.patch) ** 2 + 2


_MFA = dict(  # one key for all heads, which are twice as wide as those of mha
  query_dim=lambda c: c.model.dim // 3,  # width of what queries are made of
  head_width=lambda c: 2 * c.model.dim // c.model.attention.num_heads,  # width
)
# The fields of each variant in configs. A function computes its value from the
# config. Variants that are not listed have no fields.
VARIANTS = {name: {} for name in attention.names()} | dict(
  mha=dict(
    key_features=0,  # width of the keys of all heads, 0: that of the model
  ),
  collab=dict(
    shared_dim=lambda c: c.model.dim // 2,  # width of the shared keys
    # As in the papers' encoders: a content bias, and no biases on projections.
    bias='content',  # of queries and keys: content, shared, none
    mixing_init='normal',  # of the mixing: normal, concatenate, xavier
  ),
  gqa=dict(
    kv_heads=2,  # groups of heads, which share keys and values
  ),
  mhe_mul=dict(
    offset=1.0,  # what is added to the head embeddings
  ),
  mla=dict(
    latent_dim=lambda c: c.model.dim // 4,  # width of the latents
  ),
  gla=dict(latent_dim=lambda c: c.model.dim // 8 * 2, kv_heads=2),
  gta=dict(kv_heads=2),
  mfa=_MFA,
  mfa_kr=_MFA,
  tpa=dict(
    rank=2,  # terms of each key and value
  ),
  linformer=dict(
    length=_length,  # most keys
    projected_length=64,  # keys that are left of them
  ),
)
# Fields of an attention that configs lack unless given, and their types.
OPTIONAL = dict(
  implementation='xla',  # the kernel that has to take every call
  qkv_features=0,  # width of all heads, by default that of the model
  kv_heads=0,
  embedding_std=0.02,  # standard deviation of head embeddings at the start
  gate='none',  # of the result of each head: none, head, elementwise
  soft_cap=30.0,  # bound of the scores
  fold=False,  # under rope, whether the query is multiplied as without
  mixing='real',  # real, or complex: a number for each plane that rotates
  spectrum='head',  # rates of rope in the shared keys: head, shared
)
BOOL = dict(true=True, false=False)


def check(config: str) -> None:
  """Raises a ValueError that lists our configs if the file does not exist."""
  with checks.located('--config'):
    catalog.config_file(config.partition(':')[0])


def overview() -> str:
  """Lists families, sizes and variants, a line each."""
  parts = {
    'families, as --config=configs/FAMILY.py:WORD,WORD': {
      name: line
      for name, line in catalog.listed('configs').items()
      if '_' not in name  # those only fix words of a family
    },
    'sizes, without one the recipe that is published': SIZES,
    'variants of attention': catalog.listed('variants'),
  }
  return '\n'.join(f'{k}:\n{catalog.table(x)}\n' for k, x in parts.items())


def base() -> ConfigDict:
  """Makes the fields that all families share, without task and data.

  A family adds its own fields and changes those in which it differs.
  """
  c = ConfigDict()
  c.model = dict(
    name='',  # encoder, decoder, encoder_decoder, vit, or an import path
    dim=768,  # width of the model
    mlp_dim=3072,  # width of the MLP's hidden layer
    activation='gelu',  # of the MLP: gelu, gelu_tanh, relu, relu2, silu
    norm='pre',  # where the norms are: pre, post, both
    epsilon=1e-6,  # of the norms
    dropout=0.1,  # rate, of the results of attention and MLP
    attention_dropout=0.0,  # rate, of attention weights
    activation_dropout=0.0,  # rate, of the MLP's hidden layer
    scan=False,  # layers as one loop: quick to compile
    remat='none',  # what the backward pass computes again: none, dots, full
    dtype='float32',  # of the computation, parameters are float32
    attention=dict(
      name='mha',  # a variant, or an import path
      num_heads=12,  # number of heads
    ),
  )
  c.optim = dict(
    name='adamw',  # adam, adamw, muon
    lr=1e-3,  # peak learning rate
    schedule='cosine',  # inverse_sqrt, linear, cosine, wsd, constant
    warmup_steps=0,  # steps in which the rate rises from 0
    end_lr=0.0,  # learning rate at total_steps
    b1=0.9,  # decay of Adam's mean of gradients
    b2=0.999,  # decay of Adam's mean of their squares
    eps=1e-8,  # Adam's epsilon
    weight_decay=0.0,  # of matrices, decoupled
    clip=1.0,  # largest norm of a gradient; 0 for any
    ema=0.0,  # decay of a moving average of the parameters; 0 for none
    layer_decay=1.0,  # factor of the learning rate from a layer to that below
  )
  c.total_steps = 0  # updates
  c.every = dict(
    log=0,  # steps between rows of the log
    eval=0,  # steps between evaluations on val
    checkpoint=0,  # steps between checkpoints
  )
  c.accumulate = 1  # micro-batches of an update
  c.fsdp = 1  # devices over which the state is split
  c.tensor = 1  # devices over which heads, MLPs and vocabulary are split
  c.rules = ''  # axes split otherwise than in collab/models/axes.py
  c.skip_nonfinite = 0  # bad steps (NaN, infinity) that the whole run may skip
  c.checkpoint = dict(
    keep=3,  # newest checkpoints that stay, beside the best one
    best='-val/nll',  # the metric that says which that is; - if lower is better
    average=1,  # newest checkpoints whose mean is the 'last', without optim.ema
    final='best',  # what the end evaluates, or 'last': the moving average, mean
  )
  c.seed = 0  # of parameters, order of the data, and dropout
  c.init_from = ''  # workdir of a run to initialise parameters from
  c.wandb = ''  # project at Weights & Biases
  return c


class Words(NamedTuple):
  """The words of a config's argument.

  Attributes:
    subtask: '' in a family without sub-tasks.
    model: '' in a family without models.
    size: '' for the paper's size; `smoke` is 'sample', and shortened.
    variant: variant of attention, mha by default.
    fields: {key: value, as text} of the attention.
    others: {kind: word} of the kinds that only this family has.
    smoke: whether to train for 20 steps, see `shorten`.
  """

  subtask: str
  model: str
  size: str
  variant: str
  fields: dict
  others: dict
  smoke: bool


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

  Raises:
    ValueError: there is an unknown word, or two of a kind; the message lists
      the legal ones.
  """
  kinds = dict.fromkeys(subtasks, 'sub-task') | dict.fromkeys(models, 'model')
  kinds |= dict.fromkeys([*sizes, 'smoke'], 'size')
  kinds |= dict.fromkeys(VARIANTS, 'variant')
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
  size = chosen.get('size', '')
  return Words(
    chosen.get('sub-task', next(iter(subtasks), '')),
    chosen.get('model', next(iter(models), '')),
    'sample' if size == 'smoke' else size,
    chosen.get('variant', 'mha'),
    fields,
    {kind: chosen.get(kind, next(iter(x))) for kind, x in others.items()},
    size == 'smoke',
  )


def fixed(get_config: Callable, word: str) -> Callable:
  """Makes the get_config of a file that fixes one of a family's words."""
  return lambda argument='': get_config(f'{word},{argument}')


def shorten(c: ConfigDict, steps: int = 20) -> None:
  """Changes the number of steps, and the schedules with it."""
  c.optim.warmup_steps = max(1, steps * c.optim.warmup_steps // c.total_steps)
  log, half = max(1, steps // 4), steps // 2
  c.update(total_steps=steps, every=dict(log=log, eval=half, checkpoint=half))


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
  if words.smoke:
    shorten(c)
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
