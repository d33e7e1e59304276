# SPDX-License-Identifier: Apache-2.0
"""What a family of Hugging Face's models is: what is called what.

A row: module in the checkpoint, path in our parameters, layout, and maybe the
only architecture that it is for. '{}' stands for the number of a layer. A row
is passed over if the model lacks one of its parameters, or an earlier row has
filled it; rows of heads come before those of the body.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from collab.convert.huggingface.layouts import DENSE, NORM, TABLE

LABELS = 'labels'  # stands for the number of labels in the config

# Hugging Face's names of activations -> those of models.layers.
ACTIVATIONS = dict(
  gelu='gelu',
  gelu_new='gelu_tanh',
  gelu_pytorch_tanh='gelu_tanh',
  relu='relu',
  silu='silu',
  swish='silu',
)


class Family(NamedTuple):
  """What checkpoints of one model_type have in common.

  Attributes:
    model: name for models.build.
    fields: get -> its fields but those of training and of the head; get(name[,
      default]) reads config.json.
    fixed: field of config.json -> the value that it has if it is there.
    architectures: name -> fields that follow from it; the first is the body.
    prefix: of the body's names in the other architectures.
    body, head: rows.
    pooler: whether the body may have one.
    tied: name -> name of the tensor that it has to equal, or stands for.
    waves: names of what has to be the table of exact sinusoids.
    rest: patterns of names that our models have no place for.
  """

  model: str
  fields: Callable
  fixed: Mapping
  architectures: Mapping
  prefix: str
  body: tuple
  head: tuple
  pooler: bool = False
  tied: Mapping = {}
  waves: tuple = ()
  rest: tuple = ()


def heads(name, *more):
  """Architectures of an encoder; those of `more` are masked LMs too."""
  fields = dict(
    Model=dict(head='none'),
    ForMaskedLM=dict(head='mlm'),
    ForSequenceClassification=dict(head='classify', outputs=LABELS),
    ForMultipleChoice=dict(head='choice'),
    ForQuestionAnswering=dict(head='span'),
  ) | {end: dict(head='mlm') for end in more}
  return {name + end: value for end, value in fields.items()}


def layer(module, path, names):
  """Rows of a layer, of {path in it: (module in it, layout)}."""
  return tuple(
    (f'{module}.{theirs}', f'{path}/{ours}', layout)
    for ours, (theirs, layout) in names.items()
  )


# Rows that encoders have in common.
EMBEDDINGS = (
  ('embeddings.word_embeddings', 'embed', TABLE),
  ('embeddings.position_embeddings', 'positions', TABLE),
  ('embeddings.token_type_embeddings', 'types', TABLE),
  ('embeddings.LayerNorm', 'embed_norm', NORM),
)
CLASSIFIER = ('classifier', 'head/Dense_0', DENSE)
SPAN = ('qa_outputs', 'head', DENSE)
