# SPDX-License-Identifier: Apache-2.0
"""What the families of text encoders share: embeddings, heads and fields."""

from collections.abc import Callable, Mapping

from collab.convert.huggingface.families.family import (
  LABELS,
  Family,
  block_fields,
)
from collab.convert.huggingface.layouts import DENSE, NORM, TABLE, WHOLE

ARCHITECTURES = dict(
  Model=dict(head='none'),
  ForMaskedLM=dict(head='mlm'),
  ForSequenceClassification=dict(head='classify', outputs=LABELS),
  ForTokenClassification=dict(head='tag', outputs=LABELS),
  ForMultipleChoice=dict(head='choice'),
  ForQuestionAnswering=dict(head='span'),
)
WORDS = 'embeddings.word_embeddings'
EMBEDDINGS = (
  (WORDS, 'embed', TABLE),
  ('embeddings.position_embeddings', 'positions', TABLE),
  ('embeddings.token_type_embeddings', 'types', TABLE),
  ('embeddings.LayerNorm', 'embed_norm', NORM),
)
CLASSIFIER = ('classifier', 'head/Dense_0', DENSE)


def fields(get: Callable, dropout: float = 0.1) -> dict:
  """Reads the model's fields from a config with BERT's names."""
  return block_fields(get, dropout) | dict(
    vocab_size=get('vocab_size'),
    norm='post',
    positions='learned',
    max_length=get('max_position_embeddings'),
    first_position=0,
    types=get('type_vocab_size', 2),
    embed_dim=0,
    shared=False,
    outputs=0,
  )


def family(
  name: str,
  fields: Callable,
  *,
  body: tuple,
  lm: tuple[str, str, str, str],
  fixed: Mapping = {},
  head: tuple = (CLASSIFIER,),
  more: tuple[str, ...] = (),
  rest: tuple = (),
  prefix: str = '',
  defaults: Mapping = {},
) -> Family:
  """Makes the Family of an encoder.

  Args:
    name: prefix of its architectures, 'Bert' of BertModel.
    fields: see `Family`.
    body: rows of the body after the embeddings.
    lm: modules of the masked LM's head: dense layer, norm, the module with the
      bias, and the output layer, whose weight is the embedding table.
    fixed, defaults: see `Family`.
    head: rows of the other heads.
    more: suffixes of further architectures with the masked LM's head.
    rest: see `Family`; the position ids are already in it.
    prefix: see `Family`; by default the name in small letters.
  """
  dense, norm, bias, output = lm
  ends = ARCHITECTURES | {end: dict(head='mlm') for end in more}
  tied = [(f'{output}.weight', f'{WORDS}.weight')]
  if output != bias:
    tied.append((f'{output}.bias', f'{bias}.bias'))
  return Family(
    model='encoder',
    fields=fields,
    fixed=fixed,
    defaults=defaults,
    architectures={name + end: value for end, value in ends.items()},
    prefix=prefix or name.lower(),
    body=(*EMBEDDINGS, *body),
    head=(
      ('qa_outputs', 'head', DENSE, f'{name}ForQuestionAnswering'),
      ('classifier', 'head', DENSE, f'{name}ForTokenClassification'),
      (dense, 'head/dense', DENSE),
      (norm, 'head/norm', NORM),
      (f'{bias}.bias', 'head/bias', WHOLE),
      *head,
    ),
    tied=tuple(tied),
    rest=('embeddings.position_ids', *rest),
  )
